"""The benchmarks measure what they say: the same network on all sides, every slice seen, and tables that add up."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.detector import Question, detect, encode_text
from MedicalSAM3Lib.features import encode
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.presence import SliceCalibration
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Progress, Volume
from Testing.benchmarks import (
    bench,
    bench_cancel,
    bench_exact,
    bench_full,
    bench_memory,
    bench_server,
    bench_volume,
    worlds,
)
from Testing.benchmarks import measuring as measuring_module
from Testing.benchmarks.full_forward import always_with_cls_token, forward_each
from Testing.benchmarks.measuring import PeakMemory, in_fresh_process
from Testing.benchmarks.server_load import Seen
from Testing.benchmarks.sides import Measured
from Testing.benchmarks.tables import Table, markdown, number, ratio
from Testing.benchmarks.video_baseline import Kernels, SameDetections, both_directions, build_video_model
from Testing.benchmarks.worlds import Options, noise, random_model, repeated

EXACT = Runtime(torch.device("cpu"), torch.float32)
OPEN = SliceCalibration(threshold=0.0)
CONCEPTS = ["liver", "left kidney"]
SLICES = 4


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """Detector and tracker, a few megabytes, with weights so large that the prompt and the slice change the answer."""
    loaded = random_model("small")
    for parameter in loaded.model.detector_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return loaded


@pytest.fixture(scope="module")
def stack(model: LoadedModel) -> SliceStack:
    settings = make_settings(device="cpu", speed="exact")
    return prepare(noise(SLICES, model.model.image_size), model.preprocess, settings)


@pytest.fixture
def video(model: LoadedModel) -> SameDetections:
    network = build_video_model(model, SameDetections)
    network.calibration = OPEN
    return network


def logits_of(detector: Any, picture: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Query and presence logits of a detector that is asked as the video model asks it."""
    seen = detector.get_vision_features(pixel_values=picture)
    text = detector.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True)
    answer = detector(vision_embeds=seen, text_embeds=text, attention_mask=mask)
    return answer.pred_logits, answer.presence_logits[:, 0]


@torch.inference_mode()
def test_the_detector_of_the_video_model_is_ours(model: LoadedModel, stack: SliceStack, video: SameDetections) -> None:
    net, picture = model.model, stack.batch(slice(0, 1), EXACT.device)
    ids, mask = model.tokenizer.encode(CONCEPTS[:1])
    queries = net.decode_queries(net.share(net.pyramid(net.encode_trunk(picture))), net.encode_text(ids, mask))
    logits, presence = logits_of(video.detector_model, picture, ids, mask)
    torch.testing.assert_close(logits, queries.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(presence, queries.presence, atol=1e-4, rtol=0)
    assert video.detector_model.config.vision_config.backbone_config.layer_norm_eps == 1e-5
    untouched = random_model("small").model.detector_model
    untouched.load_state_dict(net.detector_model.state_dict())
    without, _ = logits_of(untouched, picture, ids, mask)
    assert float((without - queries.logits).abs().max()) > 1e-3, "without its token it must be another network"


def test_full_forwards_say_what_ours_says(model: LoadedModel, stack: SliceStack) -> None:
    net = model.model
    ids, mask = model.tokenizer.encode(CONCEPTS)
    question = Question(encode_text(net, ids, mask, EXACT), OPEN, "union")
    with encode(stack, net, EXACT, ignore) as features:
        expected = detect(features, net, question, EXACT, ignore)
    always_with_cls_token(net.detector_model)
    seen = forward_each(model, stack, CONCEPTS, OPEN, EXACT)
    np.testing.assert_allclose(seen.presence, expected.presence, atol=1e-5)
    assert seen.seconds > 0.0
    assert sorted(seen.maps) == sorted(expected.maps) == [(p, n) for p in range(2) for n in range(SLICES)]
    for key, one in expected.maps.items():
        torch.testing.assert_close(seen.maps[key].logits, one.logits, atol=0.02, rtol=1e-3)
    closed = forward_each(model, stack, CONCEPTS[:1], SliceCalibration(bias=-1e3), EXACT)
    assert closed.maps == {}


def ignore(progress: Progress) -> None:
    """Take no notice."""


def test_both_directions_see_all_slices(
    model: LoadedModel, stack: SliceStack, video: SameDetections, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = Sam3VideoInferenceSession.get_frame
    side = 4 * model.model.grid_size
    square = torch.full((1, side, side), -9.0)
    square[:, 4:8, 4:8] = 9.0

    def get_frame(session: Sam3VideoInferenceSession, n: int) -> Tensor:
        seen.append(n)
        return original(session, n)

    def square_of_the_second_on_slice_2(**_: object) -> dict[int, dict[str, Tensor]]:
        found = slice(0, int(seen[-1] == 2))
        return {1: {"bbox": torch.zeros(1, 4)[found], "mask": square[found], "scores": torch.tensor([0.9])[found]}}

    monkeypatch.setattr(Sam3VideoInferenceSession, "get_frame", get_frame)
    monkeypatch.setattr(video, "run_detection", square_of_the_second_on_slice_2)
    maps = both_directions(video, model, stack, CONCEPTS, EXACT)
    assert seen == [0, 1, 2, 3, 3, 2, 1, 0]
    # Up it is carried from slice 2 to the last, down to the first.
    assert sorted(maps) == [(1, n) for n in range(SLICES)]
    assert torch.equal(maps[1, 2].logits > 0, square[0] > 0)
    assert maps[1, 2].weight == pytest.approx(0.9)


def test_the_video_model_reads_the_detector_as_ours_does_its_gate_included(
    model: LoadedModel, stack: SliceStack, video: SameDetections
) -> None:
    assert {key[1] for key in both_directions(video, model, stack, CONCEPTS, EXACT)} == set(range(SLICES))
    video.calibration = SliceCalibration(bias=-1e3)
    assert both_directions(video, model, stack, CONCEPTS, EXACT) == {}


def test_kernels_suppress_overlaps_and_measure_parts() -> None:
    iou = torch.tensor([[1.0, 0.6, 0.05], [0.6, 1.0, 0.3], [0.05, 0.3, 1.0]])
    assert Kernels.generic_nms(iou, torch.tensor([0.7, 0.9, 0.8]), 0.35).tolist() == [1, 2]
    assert Kernels.generic_nms(torch.zeros(0, 0), torch.zeros(0), 0.1).tolist() == []
    mask = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.uint8)[None, None]
    labels, counts = Kernels.cc_2d(mask)
    assert counts.tolist() == [[[[2, 0, 0, 0], [0, 2, 0, 1]]]]
    assert len(labels.unique()) == 3
    with pytest.raises(ValueError, match="matrix"):
        Kernels.generic_nms(iou, torch.zeros(3), 0.1, use_iou_matrix=False)
    with pytest.raises(ValueError, match="sizes"):
        Kernels.cc_2d(mask, get_counts=False)


def test_a_table_as_markdown() -> None:
    table = Table("Title", ("What", "s"), (("a|b", number(1.234)), ("none", number(float("nan")))), ("A note.",))
    assert markdown(table) == "**Title**\n\n| What | s |\n| --- | --- |\n| a\\|b | 1.23 |\n| none | - |\n\nA note.\n"
    assert (ratio(3.0, 2.0), ratio(3.0, 0.0), ratio(None, 2.0), number(None)) == ("1.50", "-", "-", "-")
    with pytest.raises(ValueError, match="2 texts a row"):
        Table("Title", ("What", "s"), (("a",),))


def test_the_volume_table_compares_with_ours_and_says_where_a_tracker_is_missing() -> None:
    measured = [Measured(2.0, 100.0, 0.75), None, Measured(9.0, None, 0.5), None, None]
    table = bench_volume.table("Title", measured)
    assert table.rows[0] == ("Ours, detect", "2.00", "1.00", "100", "0.750")
    assert table.rows[1][1:] == ("-", "-", "-", "-")
    assert table.rows[2][1:] == ("9.00", "4.50", "-", "0.500")
    assert table.notes == (bench_volume.NO_TRACKER,)


def test_bounds_of_known_parts() -> None:
    table = bench_full.bounds("Title", bench_full.Parts(trunk=16.0, neck=16.0, theirs=1.0, ours=16.0), 4.0)
    assert table.rows[0] == ("transformers", "16.000", "16.000", "2.000", "6.00", "0.67")
    assert table.rows[1] == ("ours", "16.000", "16.000", "1.000", "8.50", "0.47")


def test_memory_with_and_without_labels() -> None:
    few, many = bench_memory.Used(60.0, 10.0), bench_memory.Used(150.0, 90.0)
    assert bench_memory.row(few, many) == ("60", "150", "2.50", "50", "60", "1.20")
    assert bench_memory.row(few, bench_memory.Used(None, 1.0))[1:3] == ("-", "-")


def test_gaps_and_middles_of_known_calls() -> None:
    stages = ["features", "features", "detection", "detection", "detection", "fusion"]
    calls = [(second, Progress(stage, 0, 1)) for second, stage in zip((0, 2, 3, 8, 9, 10), stages, strict=True)]
    assert bench_cancel.gap_row(calls) == ("6", "5.000", "2.000", "2.50")
    assert bench_cancel.middles(calls) == [1, 3, 5]


def test_voxels_that_differ_are_counted_in_both_masks() -> None:
    mask, other = np.zeros((2, 3, 3), bool), np.zeros((2, 3, 3), bool)
    mask[0, 0, :2], other[0, 0, 1:] = True, True
    assert bench_exact.differing({"liver": mask, "spleen": mask}, {"liver": other, "spleen": mask}) == 2


def test_slices_are_repeated_up_and_down() -> None:
    volume = Volume(np.arange(3, dtype=np.float32)[:, None, None].repeat(2, 1), np.eye(4))
    assert repeated(volume, 8).array[:, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert repeated(volume, 2).array[:, 0, 0].tolist() == [0, 1]


def test_the_sample_brings_its_largest_structures() -> None:
    case = worlds.load_case("sample")
    assert case is not None
    sizes = [int(mask.sum()) for mask in case.masks_kji.values()]
    assert case.concepts[:2] == ["liver", "spleen"]
    assert len(sizes) == worlds.MOST_CONCEPTS
    assert sizes == sorted(sizes, reverse=True)


def test_without_the_data_a_table_says_what_to_do(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "MANIFEST", tmp_path / "manifest.parquet")
    assert worlds.load_case("trained") is None
    assert "make demo-data" in worlds.MISSING
    monkeypatch.setattr(bench_volume, "in_fresh_process", lambda *_: Measured(1.0, 1.0, math.nan))
    *_, last = bench_volume.run(Options(device="cpu"))
    assert (last.rows, last.notes) == ((), (worlds.MISSING,))


def test_peak_memory_is_what_came_on_top() -> None:
    memory = PeakMemory(torch.device("cpu"))
    torch.ones(20_000_000)
    above = memory.above_mb()
    assert above is not None
    assert above >= 0.0
    if measuring_module.sys.platform == "linux":
        assert 70.0 < above < 150.0


def test_a_fresh_process_is_another_one_and_tells_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_module, "PRELOADED", [])
    assert in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        in_fresh_process(divmod, 1, 0)


def test_the_load_tells_jobs_that_were_lost_from_those_that_ran_twice() -> None:
    seen = Seen()
    for job_id in ("a", "b", "b"):
        seen.asked(job_id)
    seen.ended("done", 2.0)
    assert seen.faults == {"one job for two questions": 1}
    for ended, lost, twice in ((1, "1", "0"), (2, "0", "0"), (3, "0", "1")):
        rows = dict(bench_server.load_rows(seen, 0, ended))
        assert rows["Jobs asked for"] == "2"
        assert rows["Jobs lost"] == lost
        assert rows["Jobs run that nobody, or nobody again, asked for"] == twice
        assert rows["Faults (served to another token, wrong answers, errors)"] == "1"


def test_memory_that_grows_is_seen() -> None:
    watch = bench_server.MemoryWatch(os.getpid())
    watch._front, watch._engine = [float(at) for at in range(1, 101)], [5.0] * 100
    assert list(watch.rows()) == [("Front", "38", "88", "2.32"), ("Engine", "5", "5", "1.00")]
    assert bench_server.resident_mb(os.getpid()) > 10


@pytest.mark.slow
def test_a_server_under_a_little_load_loses_nothing() -> None:
    tables = {table.title: dict(row[:2] for row in table.rows) for table in bench_server.run(Options(seconds=5.0))}
    load = tables[f"{bench_server.CLIENTS} clients for 5 s"]
    assert int(load["Jobs asked for"]) >= bench_server.CLIENTS
    assert (load["Jobs lost"], load["Jobs run that nobody, or nobody again, asked for"]) == ("0", "0")
    assert load["Faults (served to another token, wrong answers, errors)"] == "0"


def test_an_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--only", "prompts,lunch"])
    assert "got lunch" in capsys.readouterr().err
