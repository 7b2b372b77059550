"""The tracker as it is trained: from a seed through the slices of a clip, by the steps that inference uses.

B objects in C clips of T slices each.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from MedicalSAM3Lib.memory import MemoryLimits, Recall, recall
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.tracker_steps import Answer, Recalled, follow, limits_of, look, memorise, take_mask
from Training.collate import Clips
from Training.transfer import to_device


def track_clips(model: MedicalSam3, tokens_ctld: Tensor, clips: Clips) -> list[Answer]:
    """Carry objects from the first slice of their clip to its last.

    The memory of a slice is made of the tracker's own answer, right or wrong, as it is in use; of a slice that the
    tracker is told about, of what it is told, also before it gets there, as of a seed that lies ahead.

    Args:
        model: With a tracker.
        tokens_ctld: Trunk tokens ``(C, T, L, D)`` of the clips.
        clips: The objects.

    Returns:
        The answers ``(B, ...)`` on the slices ``asked_at``, in order.
    """
    length, limits = tokens_ctld.shape[1], limits_of(model)
    images = look(model, tokens_ctld.flatten(0, 1))
    first = clips.clip_of * length
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    for number, n in enumerate(clips.given_at):
        image = images.take(first + n)
        seed = take_mask(model, image, clips.given[:, number].to(tokens_ctld.dtype))
        kept[n] = memorise(model, image, seed), seed.pointers
    answers: list[Answer] = []
    for n in asked_at(clips, length):
        tracked = [past for past in range(n) if past not in clips.given_at]
        image = images.take(first + n)
        answers.append(follow(model, image, _stack(recall(n, 1, clips.given_at, tracked, limits), kept, limits)))
        if n < length - 1:  # nothing looks back at the last slice
            kept[n] = memorise(model, image, answers[-1]), answers[-1].pointers
    return answers


def asked_at(clips: Clips, length: int) -> list[int]:
    """Slices of which the tracker is not told."""
    return [n for n in range(length) if n not in clips.given_at]


def _stack(chosen: Recall, kept: Mapping[int, tuple[Tensor, Tensor]], limits: MemoryLimits) -> Recalled:
    memories = torch.stack([kept[n][0] for n, _ in chosen.memories], 1)

    def steps(pairs: tuple[tuple[int, int], ...]) -> Tensor:
        return to_device(torch.tensor([back for _, back in pairs]), memories.device).expand(len(memories), -1)

    return Recalled(
        memories=memories,
        steps=steps(chosen.memories),
        pointers=torch.stack([kept[n][1] for n, _ in chosen.pointers], 1),
        pointer_steps=steps(chosen.pointers),
        # In a volume pointers may span all of the bank; a clip must not teach another scale.
        reach=limits.pointers,
    )
