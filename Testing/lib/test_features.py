"""Trunk features: every slice once, in batches, batched equals single."""

from __future__ import annotations

import shutil
import tempfile
from types import SimpleNamespace

import pytest
import torch

from MedicalSAM3Lib import features as module
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled, RunError
from MedicalSAM3Lib.feature_store import FeatureStore
from MedicalSAM3Lib.features import encode
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Progress
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import spheres

EXACT = Runtime(torch.device("cpu"), torch.float32)


def make() -> tuple[SliceStack, object]:
    model = fake_model({"ball": (0.5, 1.5)})
    return prepare(spheres({255.0: (0.4, 0.5, 0.5)})[0], model.preprocess, make_settings()), model.model


@pytest.mark.parametrize("most", [1, 5, 64])
def test_every_slice_is_encoded_once_and_batches_change_nothing(most, monkeypatch):
    stack, net = make()
    monkeypatch.setattr(module, "_CPU_TOKENS", most * net.grid_size**2)
    features = encode(stack, net, EXACT, lambda progress: None)
    assert net.trunk_slices == len(stack) == len(features)
    for n in (0, 7, len(stack) - 1):
        with torch.inference_mode():
            alone = net.encode_trunk(stack.batch(slice(n, n + 1), EXACT.device))
        assert torch.equal(features.tokens(slice(n, n + 1)), alone)


def test_tokens_are_kept_in_the_runs_format():
    stack, net = make()
    features = encode(stack, net, Runtime(EXACT.device, torch.bfloat16), lambda progress: None)
    assert features.tokens(slice(0, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_budget_of_two_slices_changes_no_bit_and_leaves_no_file(dtype, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    runtime = Runtime(EXACT.device, dtype)
    everything = slice(0, 24)
    stack, net = make()
    with encode(stack, net, runtime, lambda progress: None) as whole:
        slice_bytes = whole.tokens(slice(0, 1)).nbytes
        with encode(stack, net, runtime, lambda progress: None, budget_gb=2.5 * slice_bytes / 1e9) as split:
            assert torch.equal(split.tokens(everything), whole.tokens(everything))
            assert torch.equal(split.take([5, 0, 23, 1]), whole.tokens(everything)[[5, 0, 23, 1]])
            assert split._store.in_memory == 2
            assert list(tmp_path.iterdir()) == []  # it has no name even while it is used
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        split.tokens(everything)


def test_a_full_disk_is_one_clear_line(monkeypatch):
    stack, net = make()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(RunError, match=r"GB of free disk .* raise the memory budget"):
        encode(stack, net, EXACT, lambda progress: None, budget_gb=1e-9)
    assert net.trunk_slices == 1


@pytest.mark.parametrize("error", [Cancelled("stop"), RunError("full"), KeyboardInterrupt()])
def test_what_ends_the_run_closes_what_was_kept(error, monkeypatch):
    stack, net = make()
    monkeypatch.setattr(module, "_CPU_TOKENS", 4 * net.grid_size**2)
    made = []
    monkeypatch.setattr(module, "FeatureStore", lambda *args: made.append(FeatureStore(*args)) or made[0])

    def stop(progress: Progress) -> None:
        if progress.done >= 5:
            raise error

    with pytest.raises(type(error)):
        encode(stack, net, EXACT, stop, budget_gb=1e-9)
    assert made[0].nbytes == 0
    assert made[0]._file.closed


def test_cancel_is_asked_for_before_every_batch(monkeypatch):
    stack, net = make()
    monkeypatch.setattr(module, "_CPU_TOKENS", 4 * net.grid_size**2)

    def cancel(progress: Progress) -> None:
        if progress.done >= 5:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        encode(stack, net, EXACT, cancel)
    assert net.trunk_slices == 5


def test_a_part_is_a_copy_of_some_slices_that_outlives_the_whole():
    stack, net = make()
    with encode(stack, net, EXACT, lambda progress: None) as whole:
        expected = whole.take([5, 0])
        part = whole.part([5, 0])
    assert len(part) == 2
    assert torch.equal(part.take([0, 1]), expected)
    with part:
        pass
    with pytest.raises(ValueError, match="closed"):
        part.take([0])
