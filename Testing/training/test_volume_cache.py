"""Volumes from the disk are those from memory, bit for bit; a damaged entry is named."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.errors import InputError, OutputError
from Testing.training.data_world import SPEC, in_memory, labelled, write_world
from Training import volume_cache as module
from Training.config import DataConfig
from Training.data import PictureSource, TrainingData, tempered
from Training.manifest import Manifest, read_manifest
from Training.volume_cache import key_of, smallest
from Training.volumes import load_volumes


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(write_world(tmp_path, [labelled("one"), labelled("two", modality="MR")]))


def config(manifest: Manifest, cache: Path | str = "") -> DataConfig:
    path = str(manifest.folder / "manifest.parquet")
    return DataConfig(manifest=path, cache=str(cache), preprocess=SPEC, batch_slices=3)


def test_batches_from_the_disk_are_those_from_memory(manifest: Manifest, tmp_path: Path) -> None:
    memory = TrainingData.load(config(manifest)).source("train", seed=1)
    disk = TrainingData.load(config(manifest, tmp_path / "cache")).source("train", seed=1)
    assert len(disk) == len(memory)
    for step in range(4):
        one, other = memory.batch(step), disk.batch(step)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masks, other.masks)
        assert one.phrases == other.phrases


def test_files_are_read_once(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_volumes(manifest, manifest.concepts(), SPEC, str(tmp_path / "cache"))
    monkeypatch.setattr(module, "read_pictures", lambda *_: pytest.fail("read again"))
    (volume, _) = load_volumes(manifest, ("liver",), SPEC, str(tmp_path / "cache"))
    assert volume.states.shape == (12, 1)
    assert volume.coverage.mask(0).any()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_another_file_or_another_way_to_read_it_is_another_entry(manifest: Manifest) -> None:
    key = key_of(manifest, "one", SPEC)
    assert key == key_of(manifest, "one", SPEC)
    assert key != key_of(manifest, "two", SPEC)
    assert key != key_of(manifest, "one", SPEC.model_copy(update={"image_size": 64}))
    os.utime(manifest.folder / "one" / "liver.nii.gz", (1, 1))
    assert key != key_of(manifest, "one", SPEC)
    (manifest.folder / "one" / "liver.nii.gz").unlink()
    with pytest.raises(InputError, match="mask of 'liver'"):
        key_of(manifest, "one", SPEC)


def test_an_array_that_is_damaged_in_the_middle_of_an_epoch_is_named(manifest: Manifest, tmp_path: Path) -> None:
    source = TrainingData.load(config(manifest, tmp_path / "cache")).source("train", seed=1)
    source.batch(0)
    for entry in (tmp_path / "cache").iterdir():
        (entry / "slices.npy").write_bytes((entry / "slices.npy").read_bytes()[:200])
    with pytest.raises(InputError, match=r"cached array [0-9a-f]{32}/slices\.npy .* delete that folder"):
        list(source.prefetched(1, 3))


def test_an_entry_without_its_facts_is_named(manifest: Manifest, tmp_path: Path) -> None:
    load_volumes(manifest, manifest.concepts(), SPEC, str(tmp_path / "cache"))
    for entry in (tmp_path / "cache").iterdir():
        (entry / "facts.npz").write_bytes(b"cut")
    with pytest.raises(InputError, match="entry of the cache"):
        load_volumes(manifest, manifest.concepts(), SPEC, str(tmp_path / "cache"))


def test_a_full_disk_leaves_no_half_entry(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with pytest.raises(OutputError, match="no space left on device"):
        load_volumes(manifest, manifest.concepts(), SPEC, str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0, 255], np.uint8), ([-1, 255], np.int16), ([0.5], np.float32), ([4e4], np.float32), ([], np.float32)],
)
def test_values_are_kept_in_the_smallest_format_that_loses_nothing(values: list[float], kind: type) -> None:
    array = np.array(values, np.float32)
    kept = smallest(array)
    assert kept.dtype == kind
    assert np.array_equal(kept, array)


def test_a_temperature_brings_groups_together_and_leaves_what_is_within_them() -> None:
    weights, groups = np.array([6.0, 10.0, 1.0]), ["large", "large", "small"]
    assert tempered(weights, groups, 1.0).tolist() == weights.tolist()
    assert tempered(weights, groups, 2.0) == pytest.approx([1.5, 2.5, 1.0])  # sums 16 and 1 become 4 and 1
    assert tempered(weights, groups, 1e9) == pytest.approx([0.375, 0.625, 1.0], rel=1e-6)


def test_rare_data_sets_and_modalities_are_drawn_by_their_temperature() -> None:
    pictures = np.zeros((1, 8, 8))
    mask = {"liver": np.ones((1, 8, 8), bool)}
    volumes = [in_memory(pictures, mask, dataset="large", volume_id=f"{n}") for n in range(9)]
    volumes.append(in_memory(pictures, mask, dataset="small", modality="MR", volume_id="rare"))
    for changes in ({"dataset_temperature": 2.0}, {"modality_temperature": 2.0}):
        source = PictureSource(volumes, ("liver",), SPEC, "train", **changes)
        rng = np.random.default_rng(0)
        drawn = Counter(source.draw_slice(rng)[0].volume_id == "rare" for _ in range(2000))
        assert drawn[True] / 2000 == pytest.approx(1 / 4, abs=0.03)  # 9 to 1 becomes 3 to 1
