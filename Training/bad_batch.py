"""Keep the batch on which a run gave up, so that somebody can look at it.

The file holds pictures and masks as the network saw them, the phrases, and what the loss terms were; no path, no name,
no identifier. Step, rank and the seed of the configuration say where the batch comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from MedicalSAM3Lib.atomic import replacing
from Training.collate import Batch


def save_bad_batch(folder: Path, step: int, rank: int, batch: Batch, terms: Mapping[str, Tensor]) -> Path:
    """Write ``bad_batch_step_S_rank_R.pt``, which ``torch.load(..., weights_only=True)`` reads; returns its path.

    Args:
        folder: ``run.out``.
        step, rank: Where it happened.
        batch: What this rank was shown.
        terms: This rank's loss terms.

    Raises:
        OutputError: The file cannot be written.
    """
    path = folder / f"bad_batch_step_{step}_rank_{rank}.pt"
    here = batch.to("cpu")
    content = {
        "step": step,
        "rank": rank,
        "terms": {name: float(term.detach()) for name, term in terms.items()},
        "images": here.images,
        "phrases": list(here.phrases),
        "pair_slice": here.pair_slice,
        "states": here.states,
        "boxes_cxcywh": here.boxes_cxcywh,
        "masks": here.masks,
        "object_pair": here.object_pair,
    }
    with replacing(path) as (partial,):
        torch.save(content, partial)
    return path
