"""The tracker as it is trained: from a seed through the slices of a clip, by the steps that inference uses.

B clips, T slices each, h w side of the mask logits, m masks among which the tracker chooses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from MedicalSAM3Lib.memory import recall
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.tracker_steps import Answer, Recalled, follow, limits_of, look, memorise, take_mask


def track_clips(model: MedicalSam3, tokens_btld: Tensor, seeds_bss: Tensor) -> list[Answer]:
    """Carry a mask from the first slice of each clip to its last.

    The memory of a slice is made of the tracker's own answer, right or wrong, as it is in use.

    Args:
        model: With a tracker.
        tokens_btld: Trunk tokens ``(B, T, L, D)``.
        seeds_bss: Masks on the first slices ``(B, S, S)``, 0..1.

    Returns:
        The answers on slices 1 to T - 1.
    """
    clips, length = tokens_btld.shape[:2]
    images = look(model, tokens_btld.flatten(0, 1))
    first = torch.arange(clips, device=tokens_btld.device) * length
    limits = limits_of(model)
    seed = take_mask(model, images.take(first), seeds_bss.to(tokens_btld.dtype))
    memories, pointers = [memorise(model, images.take(first), seed)], [seed.pointers]
    answers: list[Answer] = []
    for n in range(1, length):
        chosen = recall(n, 1, [0], range(1, n), limits)
        image = images.take(first + n)
        answers.append(follow(model, image, _stack(chosen.memories, chosen.pointers, memories, pointers, length)))
        if n < length - 1:
            memories.append(memorise(model, image, answers[-1]))
            pointers.append(answers[-1].pointers)
    return answers


def _stack(
    of_memories: tuple[tuple[int, int], ...],
    of_pointers: tuple[tuple[int, int], ...],
    memories: list[Tensor],
    pointers: list[Tensor],
    length: int,
) -> Recalled:
    clips, device = len(memories[0]), memories[0].device

    def steps(chosen: tuple[tuple[int, int], ...]) -> Tensor:
        return torch.tensor([back for _, back in chosen], device=device).expand(clips, -1)

    return Recalled(
        memories=torch.stack([memories[n] for n, _ in of_memories], 1),
        steps=steps(of_memories),
        pointers=torch.stack([pointers[n] for n, _ in of_pointers], 1),
        pointer_steps=steps(of_pointers),
        # In a volume pointers may span all of the bank; a clip must not teach another scale.
        reach=16 if length < 16 else length,
    )
