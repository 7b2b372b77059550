"""The box around the reference: where it lies, what the network makes of it, and what it is worth"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.geometry import canonical_of, input_axis
from MedicalSAM3Lib.model import Pyramid, Queries, Slices, TextFeatures
from MedicalSAM3Lib.model_folder import LoadedModel, load_model_folder
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Volume
from Testing.lib.checkpoint_worlds import oracle_architecture
from Testing.lib.fakes import GAIN, FakeModel, fake_model
from Testing.lib.small_world import save_small_model
from Testing.training.data_world import labelled, write_world
from Training import oracle_box
from Training.case_rows import CaseRow, read_rows
from Training.cases import AXES, cases_of, read_case
from Training.evaluate import Options, evaluate
from Training.manifest import read_manifest
from Training.oracle_box import Box, ask_with_box, box_on_canvas, boxed, pool_box
from Training.protocols import PAPER

IDS = torch.tensor([[62, 5, 9, 63] + [0] * 28, [62, 17, 3, 40, 8, 63] + [0] * 26])


def roi_align(maps: Tensor, boxes: Sequence[Tensor], side: int) -> Tensor:
    """RoIAlign by its definition and SciPy: the mean of samples, a pixel apart or less, in each part of a box."""
    pooled = np.zeros((len(maps), maps.shape[1], side, side))
    for n, (left, top, right, bottom) in enumerate(torch.cat(list(boxes)).tolist()):
        height, width = max(bottom - top, 1.0), max(right - left, 1.0)
        rows, columns = math.ceil(height / side), math.ceil(width / side)
        for y, x in np.ndindex(side, side):
            down = top + height / side * (y + (np.arange(rows) + 0.5) / rows)
            across = left + width / side * (x + (np.arange(columns) + 0.5) / columns)
            at = np.meshgrid(down, across, indexing="ij")
            for channel, values in enumerate(maps[n].double().numpy()):
                pooled[n, channel, y, x] = ndimage.map_coordinates(values, at, order=1, mode="nearest").mean()
    return torch.from_numpy(pooled).to(maps)


@st.composite
def some_box(draw: st.DrawFn) -> Box:
    """A box within the square."""
    sides = [sorted(draw(st.tuples(*[st.floats(0, 1, width=32)] * 2))) for _ in range(2)]
    (left, right), (top, bottom) = sides
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


@settings(max_examples=30)
@given(some_box())
def test_a_part_of_a_box_is_the_mean_of_its_samples(box: Box) -> None:
    maps = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 2, 9, 12)))
    x, y, width, height = box
    corners = torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]], dtype=torch.float64)
    expected = roi_align(maps, [corners * torch.tensor([12, 9, 12, 9])], 7)
    assert torch.allclose(pool_box(maps, box, 7), expected, atol=1e-6)


@torch.no_grad()
def test_a_box_is_a_prompt_as_transformers_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = SimpleNamespace(ops=SimpleNamespace(roi_align=roi_align))
    monkeypatch.setattr("transformers.models.sam3.modeling_sam3.torchvision", torchvision, raising=False)
    torch.manual_seed(3)
    net = oracle_architecture().build().eval()
    images, box = torch.rand(2, 3, 84, 84) * 2 - 1, (0.4, 0.55, 0.3, 0.5)
    theirs = net.detector_model(
        pixel_values=images, input_ids=IDS, attention_mask=(IDS != 0).long(),
        input_boxes=torch.tensor(box).expand(2, 1, 4), input_boxes_labels=torch.ones(2, 1, dtype=torch.long),
    )  # fmt: skip
    text, pyramid = net.encode_text(IDS, (IDS != 0).long()), net.pyramid(net.encode_trunk(images))
    with boxed(net, box):
        slices = net.share(pyramid)
    queries = net.decode_queries(slices, text)
    assert torch.allclose(theirs.pred_logits, queries.logits, atol=1e-5)
    assert torch.allclose(theirs.pred_boxes, queries.boxes_xyxy, atol=1e-5)
    assert torch.allclose(theirs.presence_logits[:, 0], queries.presence, atol=1e-5)
    assert torch.allclose(theirs.semantic_seg[:, 0], net.decode_masks(slices, queries).semantic, atol=1e-4)
    assert net.share(pyramid).cls.shape[1] == 1  # the box was there for as long as it was asked for
    assert not torch.allclose(net.decode_queries(net.share(pyramid), text).logits, queries.logits, atol=1e-4)


@settings(max_examples=25)
@given(st.data(), st.sampled_from(AXES), st.permutations(range(3)), st.booleans())
def test_the_box_lies_where_the_picture_shows_it(
    data: st.DataObject, axis: str, order: list[int], flipped: bool
) -> None:
    shape = (24, 30, 40)
    mask = np.zeros(shape, bool)
    spans = [sorted(data.draw(st.tuples(*[st.integers(4, n - 5)] * 2))) for n in shape]
    mask[tuple(slice(first, last + 1) for first, last in spans)] = True
    affine = np.eye(4)
    affine[:3, :3] = np.diag([1.5, 2.0, -1.0 if flipped else 1.0])[:, order]
    volume = Volume(np.where(mask, 1000.0, 0.0).astype(np.float32), affine, modality="CT")
    spec = PreprocessSpec(image_size=160, mean=(0.0,) * 3, std=(1.0,) * 3, windows={"CT": ((0.0, 1000.0),) * 3})
    across = input_axis(canonical_of(affine), int(axis))
    number = spans[across][0]
    stack = prepare(volume, spec, SegmentSettings(slices=(number, number + 1), axis=axis))
    bright = stack.batch(slice(0, 1), torch.device("cpu"))[0, 0].numpy() > 0.5
    rows, columns = np.nonzero(bright)
    shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    x, y, width, height = (160 * value for value in box_on_canvas(stack, mask))
    assert [x - width / 2, y - height / 2, x + width / 2, y + height / 2] == pytest.approx(shown, abs=1.01)


class BoxReader(FakeModel):
    """Finds nothing by itself, and the box where it is given one: what the paper says of SAM3 on medical images."""

    def cls(self, pyramid: Pyramid, boxes: Tensor | None = None) -> Tensor:
        return torch.zeros(len(pyramid.levels[0]), 1, 4) if boxes is None else boxes

    def share(self, pyramid: Pyramid) -> Slices:
        return replace(super().share(pyramid), cls=self.cls(pyramid))

    def decode_queries(self, slices: Slices, text: TextFeatures) -> Queries:
        queries, box = super().decode_queries(slices, text), slices.cls[:, 0]
        presence = GAIN * (2.0 * (box[:, 2] > 0) - 1.0)
        return replace(queries, presence=presence, logits=torch.stack([presence, -presence.abs()], 1))

    def decode_masks(self, slices: Slices, queries: Queries) -> object:
        masks, (x, y, width, height) = super().decode_masks(slices, queries), slices.cls[0, 0].tolist()
        at = (torch.arange(self.image_size) + 0.5) / self.image_size
        inside = ((at - y).abs() < height / 2)[:, None] & ((at - x).abs() < width / 2)
        mask = torch.where(inside, GAIN, -GAIN)[None]
        return replace(masks, semantic=mask, pixels=torch.stack([mask, torch.full_like(mask, -GAIN)], 1))


def test_the_diagnosis_tells_a_model_that_only_reads_its_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["liver", "spleen", "left kidney", "right kidney", "kidney", "urinary bladder"]
    oracle = fake_model(dict.fromkeys(names, (3.0, 4.0)), size=152)
    spec = oracle.preprocess.model_copy(update={"windows": {"CT": ((-1000.0, 600.0),) * 3}, "crop": "body"})
    reader = replace(oracle, model=BoxReader([(3.0, 4.0)] * len(names), 152), preprocess=spec)  # type: ignore[arg-type]
    monkeypatch.setattr("MedicalSAM3Lib.registry.load_model", lambda _: reader)
    monkeypatch.setattr(oracle_box, "embed_box", lambda _, pyramid, box: torch.tensor([[box]]))
    splits = ["train"] * 5 + ["test"] * 2 + ["train"] * 5  # the liver on one, the spleen on the other
    world = write_world(tmp_path, [labelled(splits=splits)])

    def rows(prompt: str) -> list[CaseRow]:
        options = Options(prompt=prompt, robustness=False)
        report = evaluate("reader", None, world, tmp_path / prompt, options, lambda *_: None)
        assert ("not scores of a text-prompted model" in report.read_text(encoding="utf-8")) == (prompt == "oracle-box")
        return [row for row in read_rows(tmp_path / prompt / "cases.parquet") if row.protocol == "paper"]

    assert {row.outcome for row in rows("text")} == {"missed", "both_empty"}
    boxed_rows = rows("oracle-box")
    assert {row.outcome for row in boxed_rows} == {"overlap", "both_empty"}
    # Each organ is a box, so the box is all of its score; two kidneys together have one box, and it is not enough.
    dice = {row.concept: row.dice for row in boxed_rows if row.is_present}
    assert min(dice[name] for name in ("liver", "spleen", "left_kidney", "right_kidney")) > 0.9
    assert dice["kidney"] < dice["left_kidney"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model_folder(save_small_model(tmp_path_factory.mktemp("box") / "small"))


def test_a_real_network_is_asked_with_a_box_and_is_as_before_after_it(tmp_path: Path, small: LoadedModel) -> None:
    manifest = read_manifest(write_world(tmp_path, [labelled(splits=["test"] * 12)]))
    case = cases_of(manifest, "test", slice_by_slice=True)[3]
    volume, labels = read_case(manifest, case.rows)
    asked = small, volume, case, "liver", PAPER.settings.model_copy(update={"presence_threshold": 0.0})
    without = ask_with_box(*asked, None)
    with_box = ask_with_box(*asked, labels["liver"] > 0)
    assert with_box.finding.confidence != without.finding.confidence
    assert "cls" not in vars(small.model)
    assert ask_with_box(*asked, np.zeros(volume.shape_kji, bool)).finding == without.finding
    cache = FeatureCache()
    assert ask_with_box(*asked, None, cache).finding == without.finding
    assert ask_with_box(*asked, labels["liver"] > 0, cache).finding == with_box.finding
    with pytest.raises(ValueError, match="one slice"):
        ask_with_box(*asked[:2], replace(case, slices=None), *asked[3:], None)
