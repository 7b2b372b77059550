"""Presence, scores and masks of every concept on every slice, from the trunk's features.

The cost follows the answer: text is encoded once a concept, the neck runs once a slice, the decoder once a
(slice, concept) pair, and the mask head only for pairs whose calibrated presence opens the gate.

Shapes: P concepts, N slices, s side of the model's masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from MedicalSAM3Lib.features import TrunkFeatures
from MedicalSAM3Lib.fusion import CONFIDENT, Rule, SliceMap, agreement, fuse_slice, queries_that_count
from MedicalSAM3Lib.ladder import Batches
from MedicalSAM3Lib.mask_file import MaskFile
from MedicalSAM3Lib.model import MedicalSam3, Slices, TextFeatures
from MedicalSAM3Lib.objects import SliceObjects, objects_of
from MedicalSAM3Lib.presence import SliceCalibration
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.structures import OnProgress, Progress
from MedicalSAM3Lib.text_cache import TextCache

STAGE = "detection"

_MOST_PAIRS = 32
_MOST_PHRASES = 16
_CPU_VALUES = 32_000_000
"""Pyramid values of the pairs that go through a CPU at once; more gains nothing and makes a cancel wait."""

_ACTIVATIONS = 6
"""Memory of a pair, in multiples of its pyramid in float32 (masks of all queries, box bias, upsampling)."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What the detector says, before it is put on the voxels.

    Attributes:
        presence: Calibrated probability float64 ``(P, N)``; NaN where the model's answer was not a number.
        agreement: IoU of instances and semantic map ``(P, N)``; NaN where there is nothing to compare.
        maps: (concept, slice) to fused map, for the pairs that passed the gate. They stay at the mask's own
            resolution (166 kB a pair at full size), because which of them count is known only when the
            whole volume has been seen: a concept that is not in it must take no voxel from another.
        objects: (concept, slice) to the separate objects there, where they were asked for.
        skipped: Slices that nobody looked at: their presence and maps lie between those of others (``thick``).
    """

    presence: np.ndarray
    agreement: np.ndarray
    maps: dict[tuple[int, int], SliceMap]
    objects: dict[tuple[int, int], SliceObjects] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every slice.

    Attributes:
        text: The encoded phrases of P concepts.
        calibration: Turns presence logits into probabilities; its threshold is the gate of the mask head.
        rule: How instances and semantic map become one map; see ``fusion``.
        with_objects: Keep the separate objects too, for the tracker.
    """

    text: TextFeatures
    calibration: SliceCalibration
    rule: Rule
    with_objects: bool = False


def encode_text(
    net: MedicalSam3, input_ids: Tensor, attention_mask: Tensor, runtime: Runtime, cache: TextCache | None = None
) -> TextFeatures:
    """Encode P phrases ``(P, T)`` in float32: it is done once, and the whole volume hangs on it.

    In a float32 run each goes through the network by itself, so that no bit depends on which others are asked, or
    known already; together they take half of the time.
    """
    rows = range(len(input_ids))
    known = [cache.find(input_ids[row], attention_mask[row]) if cache else None for row in rows]
    new = [row for row in rows if known[row] is None]
    at_once = 1 if runtime.dtype == torch.float32 else _MOST_PHRASES
    for start in range(0, len(new), at_once):
        part = new[start : start + at_once]
        ids, mask = (tokens[part].to(runtime.device) for tokens in (input_ids, attention_mask))
        with replace(runtime, dtype=torch.float32).computing():
            encoded = net.encode_text(ids, mask).tokens
        for row, tokens in zip(part, encoded, strict=True):
            known[row] = tokens
            if cache:
                cache.add(input_ids[row], attention_mask[row], tokens)
    tokens = torch.stack([tokens.to(runtime.device) for tokens in known if tokens is not None])
    return TextFeatures(tokens, attention_mask.to(runtime.device).bool())


def detect(
    features: TrunkFeatures,
    net: MedicalSam3,
    question: Question,
    runtime: Runtime,
    on_progress: OnProgress,
    masks: MaskFile | None = None,
) -> Detections:
    """Ask for every concept on every slice; ``masks`` keeps what is found, all in memory by default.

    Raises:
        MemoryFull: There is no memory for a single pair.
        Cancelled: From ``on_progress``.
    """
    n_concepts, n_slices = len(question.text.tokens), len(features)
    unknown = np.full((n_concepts, n_slices), np.nan)
    detections = Detections(unknown, unknown.copy(), {})
    masks = masks or MaskFile()
    at_once = pairs_at_once(net, question.text, runtime)
    batches_of_pairs = Batches(runtime, STAGE, at_once, "pairs of slice and concept")

    def share(slices: Sequence[int]) -> list[Slices]:
        return net.share(net.pyramid(features.take(slices))).rows()

    def detect_batch(batch: slice) -> None:
        on_progress(Progress(STAGE, batch.start, n_slices))
        with runtime.computing():
            shared = Slices.join(features.each(STAGE, range(*batch.indices(n_slices)), share))
        rows, concepts = _pairs(batch.stop - batch.start, n_concepts)

        def detect_pairs(pairs: slice) -> None:
            on_progress(Progress(STAGE, batch.start, n_slices))
            with runtime.computing():
                _detect_pairs(net, shared, question, rows[pairs], concepts[pairs], batch.start, detections, masks)

        batches_of_pairs.each(0, len(rows), detect_pairs)

    Batches(runtime, STAGE, max(1, at_once // n_concepts)).each(0, n_slices, detect_batch)
    on_progress(Progress(STAGE, n_slices, n_slices))
    return detections


def _detect_pairs(
    net: MedicalSam3,
    shared: Slices,
    question: Question,
    rows: Tensor,
    concepts: Tensor,
    first_slice: int,
    detections: Detections,
    kept: MaskFile,
) -> None:
    """Decode pairs (row of the slices, concept) and write their answers into ``detections``."""
    device = question.text.tokens.device
    slices = (rows + first_slice).numpy()
    asked = shared.for_queries().take(rows.to(device))
    queries = net.decode_queries(asked, question.text.take(concepts.to(device)))
    presence = question.calibration.probability(queries.presence.float().cpu().numpy())
    detections.presence[concepts.numpy(), slices] = presence
    opened = torch.from_numpy(np.flatnonzero(presence >= question.calibration.threshold))
    if len(opened) == 0:
        return
    queries = queries.take(opened.to(device))
    masks = net.decode_masks(shared.take(rows[opened].to(device)), queries)
    for pair, position in enumerate(opened.tolist()):
        key = (int(concepts[position]), int(slices[position]))
        scores = queries.logits[pair].float().sigmoid() * float(presence[position])
        wanted = queries_that_count(scores)
        instances, scores, semantic = (
            masks.instances(pair, wanted).float(),
            scores[wanted],
            masks.semantic[pair].float(),
        )
        fused = fuse_slice(instances, scores, semantic, float(presence[position]), question.rule)
        if not (torch.isfinite(fused.logits).all() and np.isfinite(fused.weight)):
            detections.presence[key] = np.nan
            continue
        detections.agreement[key] = agreement(instances, scores, semantic)
        detections.maps[key] = fused = replace(fused, logits=kept.keep(fused.logits))
        if question.with_objects:
            logits = fused.logits.to(instances)
            objects = objects_of(instances, scores, logits, fused.weight, CONFIDENT)
            detections.objects[key] = objects.kept(fused.logits, kept.keep)


def _pairs(n_rows: int, n_concepts: int) -> tuple[Tensor, Tensor]:
    """All pairs of a batch: rows ``(B,)`` and concepts ``(B,)``."""
    rows, concepts = torch.meshgrid(torch.arange(n_rows), torch.arange(n_concepts), indexing="ij")
    return rows.flatten(), concepts.flatten()


def pairs_at_once(net: MedicalSam3, text: TextFeatures, runtime: Runtime) -> int:
    """How many (slice, concept) pairs are decoded together."""
    if runtime.dtype == torch.float32:
        # Batches of other sizes round otherwise, and a rounding can turn a voxel on the rim of a mask: what is
        # promised exact must not depend on which concepts are asked together, or one after the other.
        return 1
    most = max(1, _CPU_VALUES // _pyramid_values(net, text)) if runtime.device.type == "cpu" else _MOST_PAIRS
    return runtime.batch_size(pair_bytes(net, text), min(most, _MOST_PAIRS))


def pair_bytes(net: MedicalSam3, text: TextFeatures) -> int:
    """Memory that a pair takes while it is decoded."""
    return _ACTIVATIONS * 4 * _pyramid_values(net, text)


def _pyramid_values(net: MedicalSam3, text: TextFeatures) -> int:
    return 21 * net.grid_size**2 * text.tokens.shape[-1]  # levels of 4, 2 and 1 times the grid: 16 + 4 + 1
