"""Every published layout is read strictly, and each fault is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from MedicalSAM3Lib import model_import
from MedicalSAM3Lib.architecture import to_config
from MedicalSAM3Lib.errors import OutputError, WeightsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.weights import layout_of, load_checkpoint, load_strictly, read_checkpoint, save_meta
from Testing.lib.checkpoint_worlds import (
    meta_tensors,
    only_metas,
    small_architecture,
    small_model,
    without_prefix,
)

SIZES = small_architecture()
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> MedicalSam3:
    return small_model()


@pytest.fixture(scope="module")
def meta(model: MedicalSam3) -> Tensors:
    return meta_tensors(model)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same(ours: Tensors, model: MedicalSam3) -> bool:
    state = model.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[key], state[key]) for key in state)


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


def internal(tensors: Tensors) -> Tensors:
    names = {"detector.": "sam3_model.", "tracker.": "sam2_predictor.model."}
    return {names[key[: key.index(".") + 1]] + key[key.index(".") + 1 :]: value for key, value in tensors.items()}


def clicks(tensors: Tensors) -> Tensors:
    image = {k.removeprefix("detector."): v for k, v in tensors.items() if k.startswith("detector.")}
    tracker = {k.removeprefix("tracker."): v for k, v in tensors.items() if k.startswith("tracker.")}
    return image | prefixed(tracker, "inst_interactive_predictor.model.")


LAYOUTS: dict[str, Callable[[Tensors], object]] = {
    "sam3.pt": dict,
    "checkpoint_3D.pt, with optimiser": lambda t: {"model": t, "optimizer": {"state": {0: torch.ones(2)}}, "epoch": 3},
    "state_dict": lambda t: {"state_dict": t},
    "data parallel": lambda t: {"model": prefixed(t, "module.")},
    "compiled": lambda t: prefixed(t, "_orig_mod."),
    "internal names": internal,
    "image model with clicks": clicks,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_metas_layouts_give_the_same_model(layout: str, meta: Tensors, model: MedicalSam3, tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pt", LAYOUTS[layout](meta))
    checkpoint = read_checkpoint(path, architecture=SIZES)
    assert checkpoint.layout == "meta"
    assert not checkpoint.has_base_tracker
    assert same(checkpoint.tensors, model)
    assert same(load_checkpoint(path, architecture=SIZES).state_dict(), model)


def test_detector_without_prefix_has_no_tracker(meta: Tensors, model: MedicalSam3, tmp_path: Path) -> None:
    path = saved(tmp_path / "checkpoint_2D.pt", {"model": without_prefix(meta), "optimizer": {}})
    loaded = load_checkpoint(path, architecture=SIZES)
    assert not loaded.has_tracker
    detector = {key: value for key, value in model.state_dict().items() if key.startswith("detector_model.")}
    assert loaded.state_dict().keys() == detector.keys()
    assert all(torch.equal(value, detector[key]) for key, value in loaded.state_dict().items())


def test_tracker_and_its_neck_come_from_the_base(meta: Tensors, model: MedicalSam3, tmp_path: Path) -> None:
    tuned = {key: value if value.is_complex() else value + 1 for key, value in without_prefix(meta).items()}
    path, base = saved(tmp_path / "checkpoint_2D.pt", tuned), saved(tmp_path / "sam3.pt", meta)
    checkpoint = read_checkpoint(path, base=base, architecture=SIZES)
    assert checkpoint.has_base_tracker
    for key, value in model.state_dict().items():
        change = 1 if key.startswith("detector_model.") else 0
        assert torch.equal(checkpoint.tensors[key], value + change), key


def test_a_base_is_not_asked_when_the_file_has_a_tracker(meta: Tensors, tmp_path: Path) -> None:
    path = saved(tmp_path / "sam3.pt", meta)
    assert not read_checkpoint(path, base=tmp_path / "not there", architecture=SIZES).has_base_tracker


def test_a_base_without_tracker_is_refused(meta: Tensors, tmp_path: Path) -> None:
    path = saved(tmp_path / "checkpoint_2D.pt", without_prefix(meta))
    with pytest.raises(WeightsError, match=r"base with a tracker, 'checkpoint_2D\.pt' has none"):
        read_checkpoint(path, base=path, architecture=SIZES)


def test_neck_without_tracker_is_left_out(meta: Tensors, tmp_path: Path) -> None:
    detector = {key: value for key, value in meta.items() if key.startswith("detector.")}
    checkpoint = read_checkpoint(saved(tmp_path / "detector.pt", detector), architecture=SIZES)
    assert checkpoint.architecture.tracker is None


def hugging_face_folder(folder: Path, model: MedicalSam3, kind: str) -> Path:
    import json

    from transformers import Sam3Model, Sam3VideoConfig, Sam3VideoModel

    folder.mkdir()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(to_config(SIZES)), encoding="utf-8")
    if kind == "image":
        Sam3Model.from_pretrained(folder).save_pretrained(folder.with_name("out"))
    else:
        assert isinstance(Sam3VideoConfig.from_pretrained(folder), Sam3VideoConfig)
        shards = "5MB" if kind == "shards" else "5GB"
        Sam3VideoModel.from_pretrained(folder).save_pretrained(folder.with_name("out"), max_shard_size=shards)
    return folder.with_name("out")


@pytest.mark.parametrize("kind", ["video", "image", "shards"])
def test_folders_of_transformers_are_read(kind: str, model: MedicalSam3, tmp_path: Path) -> None:
    folder = hugging_face_folder(tmp_path / "in", model, kind)
    assert (folder / "model.safetensors.index.json").exists() == (kind == "shards")
    loaded = load_checkpoint(folder)
    assert loaded.has_tracker == (kind != "image")
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_a_lost_shard_is_named(model: MedicalSam3, tmp_path: Path) -> None:
    folder = hugging_face_folder(tmp_path / "in", model, "shards")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(WeightsError, match=shard.name):
        read_checkpoint(folder)


def test_the_hash_of_shards_is_that_of_their_content(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "2", "b": "1", "c": "2"}}')
    hashes = set()
    for content in (("one", "two"), ("one", "other"), ("two", "one")):
        for name, text in zip("12", content, strict=True):
            (tmp_path / name).write_text(text, encoding="ascii")
        hashes.add(model_import.hash_of(tmp_path))
    assert len(hashes) == 3


def test_a_shard_outside_the_folder_is_refused(model: MedicalSam3, tmp_path: Path) -> None:
    folder = hugging_face_folder(tmp_path / "in", model, "shards")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "../model-00001"), encoding="utf-8")
    with pytest.raises(WeightsError, match="weight map with file names"):
        read_checkpoint(folder)


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(WeightsError, match="got 'bert'"):
        read_checkpoint(tmp_path)


def test_metas_file_is_written_and_comes_back(meta: Tensors, model: MedicalSam3, tmp_path: Path) -> None:
    base = saved(tmp_path / "sam3.pt", {"model": meta | only_metas()})
    save_meta(model, tmp_path / "tuned.pt", base=base)
    written = torch.load(tmp_path / "tuned.pt", weights_only=True)["model"]
    assert written.keys() == meta.keys()
    assert all(torch.equal(written[key], meta[key]) for key in meta)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sam3.pt", "tuned.pt"]


def test_a_detector_alone_is_written_as_metas_image_model(meta: Tensors, tmp_path: Path) -> None:
    base = saved(tmp_path / "sam3.pt", meta)
    detector = load_checkpoint(saved(tmp_path / "2D.pt", without_prefix(meta)), architecture=SIZES)
    save_meta(detector, tmp_path / "tuned.pt", base=base)
    written = torch.load(tmp_path / "tuned.pt", weights_only=True)["model"]
    assert written.keys() == {f"detector.{key}" for key in without_prefix(meta)}
    assert all(torch.equal(written[key], meta[key]) for key in written)


def test_an_unwritable_place_is_an_output_error(meta: Tensors, model: MedicalSam3, tmp_path: Path) -> None:
    base = saved(tmp_path / "sam3.pt", meta)
    with pytest.raises(OutputError, match=r"tuned\.pt"):
        save_meta(model, tmp_path / "not there" / "tuned.pt", base=base)


class Bomb:
    """What a malicious checkpoint does: unpickling it calls a function."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("exploded", "w")


@pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_of_something_else_runs_nothing(
    writer: Callable[[object, Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writer({"model": Bomb()}, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match=r"'bad\.pt' is a pickle of something else .*nothing in it was run"):
        read_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "exploded").exists()


BROKEN: dict[str, tuple[str, Callable[[Path, Tensors], object], str]] = {
    "not there": ("a.pt", lambda path, t: None, "'a.pt' is not there"),
    "empty": ("a.pt", lambda path, t: path.write_bytes(b""), "'a.pt'"),
    "a web page": ("a.pt", lambda path, t: path.write_text("<!DOCTYPE html>"), "no pickle at all"),
    "half a file": ("a.pt", lambda path, t: path.write_bytes(saved(path, t).read_bytes()[:100_000]), "'a.pt'"),
    "half safetensors": ("a.safetensors", lambda path, t: path.write_bytes(b"\x00\x01" * 40), "cannot be read"),
    "a number": ("a.pt", lambda path, t: torch.save(7, path), "got int"),
    "no tensor": ("a.pt", lambda path, t: torch.save({}, path), "named tensors"),
    "not only tensors": ("a.pt", lambda path, t: torch.save({**t, "epoch": 3}, path), "'epoch' is int"),
    "another model": ("a.pt", lambda path, t: torch.save({"conv1.weight": torch.ones(1)}, path), "conv1.weight"),
    "two layouts": (
        "a.pt",
        lambda path, t: torch.save({**t, "detector_model.text_projection.bias": torch.ones(1)}, path),
        "mixes two layouts",
    ),
    "one key twice": (
        "a.pt",
        lambda path, t: torch.save({**t, "geometry_encoder.norm.bias": torch.ones(1)}, path),
        "twice",
    ),
    "a key too many": (
        "a.pt",
        lambda path, t: torch.save({**t, "detector.extra": torch.ones(1)}, path),
        r"1 unknown tensors: detector\.extra",
    ),
    "a key too few": (
        "a.pt",
        lambda path, t: torch.save({k: v for k, v in t.items() if not k.endswith("label_embed.weight")}, path),
        r"lacks 1 of SAM3's tensors: detector\.geometry_encoder\.label_embed\.weight",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_each_fault_of_a_file_is_named(fault: str, meta: Tensors, tmp_path: Path) -> None:
    name, write, message = BROKEN[fault]
    write(tmp_path / name, meta)
    with pytest.raises(WeightsError, match=message) as raised:
        read_checkpoint(tmp_path / name, architecture=SIZES)
    assert "\n" not in str(raised.value)


def test_layout_is_told_from_all_keys_whatever_their_order() -> None:
    assert layout_of(["geometry_encoder.cls_embed.weight", "detr_decoder.x"], "a") == "hugging_face"
    assert layout_of(["geometry_encoder.cls_embed.weight", "transformer.x"], "a") == "meta"


def changed(state: Tensors, key: str, change: Callable[[Tensor], Tensor]) -> Tensors:
    return {**state, key: change(state[key])}


KEY = "detector_model.geometry_encoder.cls_embed.weight"
FAULTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "missing": (lambda t: {k: v for k, v in t.items() if k != KEY}, f"lacks 1 of the model's tensors: {KEY}"),
    "all missing": (lambda t: {}, "lacks 509 .* and 506 more"),
    "left over": (lambda t: {**t, "x": torch.ones(1)}, "has unknown 1 of the model's tensors: x"),
    "shape": (lambda t: changed(t, KEY, lambda v: v.t()), r"wrong shape in 1 .*\(128, 1\) instead of \(1, 128\)"),
    "NaN": (lambda t: changed(t, KEY, lambda v: v * float("nan")), f"not finite in 1 .*{KEY}"),
    "infinite": (lambda t: changed(t, KEY, lambda v: v + float("inf")), "not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_difference_is_named_and_nothing_is_loaded(fault: str, model: MedicalSam3) -> None:
    spoil, message = FAULTS[fault]
    target = small_model()
    with pytest.raises(WeightsError, match=message) as raised:
        load_strictly(target, spoil(model.state_dict()), "a.pt")
    assert "\n" not in str(raised.value)
    assert same(target.state_dict(), model)


def test_half_precision_becomes_single(model: MedicalSam3) -> None:
    target = small_model()
    load_strictly(target, {key: value.half() for key, value in model.state_dict().items()}, "half")
    assert {value.dtype for value in target.state_dict().values()} == {torch.float32}


def test_a_tracker_needs_the_sizes_of_one(meta: Tensors, tmp_path: Path) -> None:
    from MedicalSAM3Lib.architecture import Architecture

    path = saved(tmp_path / "sam3.pt", meta)
    with pytest.raises(WeightsError, match="sizes are those of a detector alone"):
        read_checkpoint(path, architecture=Architecture(SIZES.detector, None))
