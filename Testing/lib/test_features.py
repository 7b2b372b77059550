"""Trunk features: every slice once, in batches, batched equals single."""

from __future__ import annotations

import pytest
import torch

from MedicalSAM3Lib import features as module
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled, RunError
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


def test_a_stack_that_does_not_fit_is_refused_after_one_slice():
    stack, net = make()
    with pytest.raises(RunError, match="24 slices need"):
        encode(stack, net, EXACT, lambda progress: None, budget_gb=1e-4)
    assert net.trunk_slices == 1


def test_cancel_is_asked_for_before_every_batch(monkeypatch):
    stack, net = make()
    monkeypatch.setattr(module, "_CPU_TOKENS", 4 * net.grid_size**2)

    def cancel(progress: Progress) -> None:
        if progress.done >= 5:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        encode(stack, net, EXACT, cancel)
    assert net.trunk_slices == 5
