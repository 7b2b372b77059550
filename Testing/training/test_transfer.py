"""A step reads two numbers' worth of the device: what is matched, and what became of the loss."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from Testing.lib.checkpoint_worlds import small_model
from Testing.training.test_distil import teacher
from Testing.training.test_tracking import batch_of_clips
from Testing.training.test_train import run
from Testing.training.tiny_world import FakeTokenizer, SquareSource, tiny_config, tiny_model
from Training import transfer
from Training.collate import Batch
from Training.distil import Teacher
from Training.step import TrainStep, encode_phrases, freeze_idle
from Training.transfer import to_device, to_host
from Training.warmstart import initialise

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")


class Waits(TorchDispatchMode):
    """Notes each operation that reads a value, or whose shape depends on one: on CUDA the host would wait for it.

    Attributes:
        ours: Names of those that our code asks for.
        masks: How many ``transformers`` asks for, which looks whether a prompt has padding before it makes a mask.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ours: list[str] = []
        self.masks = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_unsafe_index_put") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or name.startswith(WAITING):
            if any(frame.filename.endswith("masking_utils.py") for frame in traceback.extract_stack()):
                self.masks += 1
            else:
                self.ours.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def crossings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many values each transfer to the host had."""
    seen: list[int] = []

    def counted(*tensors: Tensor) -> list[np.ndarray]:
        seen.append(sum(tensor.numel() for tensor in tensors))
        return to_host(*tensors)

    monkeypatch.setattr(transfer, "to_host", counted)
    return seen


def squares(step: int = 0) -> Batch:
    return SquareSource().batch(step)


@pytest.mark.parametrize(
    ("losses", "who", "batch", "count"),
    [
        ({"absent_semantic": 1.0}, lambda: None, squares, 1),
        ({"many_aux_matcher": "one_to_many", "point_sampling": 50}, lambda: None, squares, 1),
        ({"one_to_many": False, "mask_loss_size": "logits"}, lambda: None, squares, 1),
        # What the teacher finds, and which of the student's queries is which of it.
        ({}, teacher, squares, 3),
        ({}, lambda: None, batch_of_clips, 1),
        ({"detector": False}, lambda: None, batch_of_clips, 0),
    ],
)
def test_forward_and_backward_wait_for_the_match_alone(
    losses: dict[str, Any],
    who: Callable[[], Teacher | None],
    batch: Callable[[], Batch],
    count: int,
    crossings: list[int],
) -> None:
    shown = batch()
    config = tiny_config("x", losses=losses)
    model = tiny_model() if shown.clips is None else small_model()
    if shown.clips is not None:
        initialise(model)
    freeze_idle(model, config.losses, with_clips=shown.clips is not None)
    step = TrainStep(model.train(), config.losses, autocast=True, teacher=who())
    phrases = encode_phrases(shown.phrases, FakeTokenizer())  # type: ignore[arg-type]
    with Waits() as waits:
        torch.stack(list(step(shown, phrases).values())).sum().backward()
    assert waits.ours == []
    assert waits.masks <= (10 if count == 3 else 5)
    assert len(crossings) == count


def test_a_whole_step_waits_twice(tmp_path: Path, crossings: list[int]) -> None:
    run(tmp_path, run={"steps": 3, "save_every": 100})
    assert len(crossings) == 2 * 3


def test_the_guard_sees_what_it_looks_for() -> None:
    values = torch.arange(4.0, requires_grad=True)
    with Waits() as waits:
        values[values.detach() > 1].sum().backward()
        values.sum().item()
    assert sorted(waits.ours) == ["_local_scalar_dense", "index", "index_put"]


def test_tensors_cross_together_and_come_apart_again() -> None:
    one, none, other = torch.arange(6.0).reshape(2, 3), torch.zeros(0, 4), torch.tensor([7.0], requires_grad=True)
    arrays = to_host(one, none, other)
    assert [array.tolist() for array in arrays] == [one.tolist(), [], [7.0]]
    assert arrays[1].shape == (0, 4)
    assert to_device(np.array([1, 2]), "meta").device.type == "meta"
    assert to_device(np.array([True, False]), torch.device("cpu")).tolist() == [True, False]
