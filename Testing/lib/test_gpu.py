"""A whole run on a CUDA device: the answers of the CPU, memory given back, and a full memory survived.

python -m pytest -m gpu Testing
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.compiling import few_sizes, warm_up
from MedicalSAM3Lib.config import SegmentSettings, make_settings
from MedicalSAM3Lib.demo import sample_path
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.overlap import dice
from MedicalSAM3Lib.pipeline import segment, segment_with_report
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.runtime import pick_runtime
from MedicalSAM3Lib.structures import Segmentation, Volume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CONCEPTS = ["liver", "spleen", "vertebra", "brain"]


@pytest.fixture(scope="module")
def volume() -> Volume:
    return read_volume(sample_path())


@pytest.fixture
def model() -> LoadedModel:
    return load_model("tiny", "cpu")


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A device on which hardly more than the network fits."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(96e6 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def settings(device: str, **values: object) -> SegmentSettings:
    return make_settings(device=device, **values)


def least_dice(one: Segmentation, other: Segmentation) -> float:
    """Over the concepts that the first one found; both must say the same of each."""
    assert [finding.state for finding in one.findings] == [finding.state for finding in other.findings]
    pairs = [(f, g) for f, g in zip(one.findings, other.findings, strict=True) if f.state == "found"]
    return min(dice(one.mask_kji(f), other.mask_kji(g)) for f, g in pairs)


@pytest.mark.parametrize("mode", ["detect", "track", "fuse"])
def test_in_float32_a_gpu_answers_as_the_cpu_does(volume: Volume, model: LoadedModel, mode: str) -> None:
    here = segment(volume, CONCEPTS, model, settings("cpu", speed="exact", mode=mode))
    there = segment(volume, CONCEPTS, model, settings("cuda", speed="exact", mode=mode))
    assert least_dice(here, there) > (0.999 if mode == "detect" else 0.98)


@pytest.mark.parametrize("mode", ["detect", "fuse"])
def test_bfloat16_costs_little(volume: Volume, model: LoadedModel, mode: str) -> None:
    exact = segment(volume, CONCEPTS, model, settings("cuda", speed="exact", mode=mode))
    result, record = segment_with_report(volume, CONCEPTS, model, settings("cuda", mode=mode))
    assert record.dtype in ("bfloat16", "float16")
    assert record.device.startswith("cuda")
    assert record.peak_memory_mb["device"] > 0
    assert least_dice(exact, result) > 0.9


def test_cached_features_change_no_bit_in_float32(volume: Volume, model: LoadedModel) -> None:
    cache, exact = FeatureCache(), settings("cuda", speed="exact")
    alone = [segment(volume, [phrase], model, exact).layers[0] for phrase in CONCEPTS[:2]]
    cached = [segment(volume, [phrase], model, exact, cache=cache).layers[0] for phrase in CONCEPTS[:2]]
    for one, other in zip(alone, cached, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_was_warmed_up_is_compiled_and_answers_alike(volume: Volume, model: LoadedModel) -> None:
    exact = segment(volume, CONCEPTS[:2], model, settings("cuda", speed="exact"))
    runtime = pick_runtime(settings("cuda"))
    runtime.place(model.model)
    warm_up(model.model, runtime, few_sizes(16))
    assert model.model.has_graphs
    result, record = segment_with_report(volume, CONCEPTS[:2], model, settings("cuda"))
    assert record.notices == ()
    assert least_dice(exact, result) > 0.9


def test_memory_is_given_back(volume: Volume, model: LoadedModel) -> None:
    segment(volume, CONCEPTS[:1], model, settings("cuda"))  # the libraries' own work spaces stay
    before = torch.cuda.memory_allocated()
    segment(volume, CONCEPTS, model, settings("cuda", mode="fuse"))
    assert torch.cuda.memory_allocated() - before < 1e6  # position encodings stay with the network
    assert torch.cuda.memory_reserved() - before < 64e6
    assert {weight.device.type for weight in model.model.parameters()} == {"cpu"}


def test_a_full_memory_ends_no_run(volume: Volume, model: LoadedModel, little_memory: None) -> None:
    result, record = segment_with_report(volume, CONCEPTS, model, settings("cuda", mode="fuse"))
    assert record.notices
    assert [finding.state for finding in result.findings] == ["found", "found", "found", "not_found"]
