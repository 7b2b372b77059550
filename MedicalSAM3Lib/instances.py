"""Keep the objects of each found concept apart: a label for each object, and its measures in the finding.

What the tracker followed says who is who; ``separate`` deals with the rest of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from MedicalSAM3Lib.evidence import Evidence, Patch, StackEvidence
from MedicalSAM3Lib.findings import slice_range
from MedicalSAM3Lib.fusion import Labels, SliceMap
from MedicalSAM3Lib.geometry import canonical_of, pixel_mm
from MedicalSAM3Lib.objects import iou
from MedicalSAM3Lib.separate import Claims, separate
from MedicalSAM3Lib.stack import SliceStack
from MedicalSAM3Lib.structures import Finding, ObjectPart, OnProgress, Progress, Volume
from MedicalSAM3Lib.tracker import Track

STAGE = "objects"

SAME_IOU = 0.5
"""From this overlap on, on one slice or from one slice to the next, two tracks are one object."""

MOST_LABELS = 65_535
"""What 16 bits hold; all found concepts share them evenly."""

Box = tuple[slice, slice, slice]
"""Slices, rows and columns of the region."""


def keep_apart(
    findings: Sequence[Finding],
    labels: Labels,
    tracks: Sequence[Track],
    evidence: Evidence,
    stack: SliceStack,
    volume: Volume,
    on_progress: OnProgress,
) -> tuple[tuple[Finding, ...], list[np.ndarray]]:
    """Give every object a label of its own.

    Args:
        findings: Of all concepts, in the order asked, as ``make_findings`` wrote them.
        labels: Concepts on the voxels of the region.
        tracks: The objects of all concepts that were followed through the stack, if any.
        evidence: From which the labels were made.
        stack: The slices of the region.
        volume: The input.
        on_progress: Called before each slice of each concept; may raise ``Cancelled``.

    Returns:
        The findings with their objects, and layers like those of ``labels``: uint16 ``(n, h, w)``. A label is that
        of one object in all layers; those of a finding follow on each other.
    """
    found = [number for number, finding in enumerate(findings) if finding.state == "found"]
    in_layers = [ndimage.find_objects(layer) for layer in labels.layers]
    boxes = {number: in_layers[findings[number].layer][findings[number].label - 1] for number in found}
    total = sum(box[0].stop - box[0].start for box in boxes.values())
    layers, apart = [np.zeros_like(layer) for layer in labels.layers], list(findings)
    last = done = 0
    for number in found:
        finding, box = findings[number], boxes[number]
        mask = labels.layers[finding.layer][box] == finding.label
        followed = [track for track in tracks if track.concept == number]
        claims = _claims(followed, stack, box, partial(_on_slice, on_progress, done, total))
        owners = separate(mask, claims, _spacing_mm(volume, stack), stack.axis, MOST_LABELS // len(found))
        parts = _measure(owners, partial(evidence.claim, number), stack, box, volume.voxel_ml, last)
        layers[finding.layer][box][mask] = owners[mask] + last
        apart[number] = replace(finding, label=parts[0].label, instances=len(parts), objects=parts)
        last, done = parts[-1].label, done + len(mask)
    on_progress(Progress(STAGE, total, total))
    return tuple(apart), layers


def _on_slice(on_progress: OnProgress, before: int, total: int, n: int) -> None:
    on_progress(Progress(STAGE, before + n, total))


def same_objects(tracks: Sequence[Track]) -> np.ndarray:
    """Number ``(T,)``, from 0, of the object that each track follows; tracks of one object have one number.

    Two tracks are one object where their masks overlap by ``SAME_IOU`` on a slice that has both, or where one ends
    and the other begins on the next slice with that overlap. What was gone for a slice or more is another object:
    nothing says that the same one returned.
    """
    by_slice: dict[int, list[int]] = {}
    for number, track in enumerate(tracks):
        for n in track.masks:
            by_slice.setdefault(n, []).append(number)
    links = [(number, number) for number in range(len(tracks))]
    for n, here in by_slice.items():
        links += _alike(tracks, here, n, here, n)
        ended = [number for number in by_slice.get(n - 1, ()) if max(tracks[number].masks) == n - 1]
        begun = [number for number in here if min(tracks[number].masks) == n]
        links += _alike(tracks, ended, n - 1, begun, n)
    ones, others = np.array(links, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (ones, others)), shape=(len(tracks),) * 2)
    return connected_components(graph, directed=False)[1]


def _alike(
    tracks: Sequence[Track], ones: Sequence[int], n: int, others: Sequence[int], m: int
) -> list[tuple[int, int]]:
    """Pairs of the first, on slice n, and the second, on slice m, whose masks overlap enough."""
    if not ones or not others:
        return []
    masks = torch.stack([tracks[other].masks[m].logits > 0 for other in others])
    overlaps = [iou(tracks[one].masks[n].logits > 0, masks).tolist() for one in ones]
    return [
        (one, other)
        for one, row in zip(ones, overlaps, strict=True)
        for other, overlap in zip(others, row, strict=True)
        if overlap >= SAME_IOU
    ]


def _claims(tracks: Sequence[Track], stack: SliceStack, box: Box, on_slice: Callable[[int], None]) -> Claims:
    """What the tracks of a concept say of each slice of a box; owner 1 is the first object."""
    owners = same_objects(tracks) + 1
    masks = {(number, n): mask for number, track in enumerate(tracks) for n, mask in track.masks.items()}
    maps = {key: SliceMap(mask.logits, mask.confidence) for key, mask in masks.items()}
    evidence = StackEvidence(maps, stack.region_shape, stack.read)

    def claims(n: int) -> Iterator[tuple[int, np.ndarray]]:
        on_slice(n)
        for number, owner in enumerate(owners.tolist()):
            claim = evidence.claim(number, box[0].start + n)
            if claim is not None:
                yield owner, claim.whole(evidence.shape[1:])[box[1:]]

    return claims


def _measure(
    owners: np.ndarray,
    claim: Callable[[int], Patch | None],
    stack: SliceStack,
    box: Box,
    voxel_ml: float,
    last: int,
) -> tuple[ObjectPart, ...]:
    """Size, place and mean confidence of each object; labels go on after the last one given."""
    count = int(owners.max())
    voxels, sums = np.zeros(count, int), np.zeros(count)
    for n, plane in enumerate(owners, start=box[0].start):
        voxels += np.bincount(plane.ravel(), minlength=count + 1)[1:]
        of_slice = claim(n)
        if of_slice is not None:
            confidence = of_slice.whole(stack.region_shape[1:])[box[1:]]
            sums += np.bincount(plane.ravel(), confidence.ravel(), count + 1)[1:]
    return tuple(
        ObjectPart(
            label=last + number + 1,
            voxels=int(voxels[number]),
            volume_ml=int(voxels[number]) * voxel_ml,
            slice_range=slice_range(stack, box[0].start + sides[0].start, box[0].start + sides[0].stop),
            confidence=float(sums[number] / voxels[number]),
        )
        for number, sides in enumerate(ndimage.find_objects(owners))
    )


def _spacing_mm(volume: Volume, stack: SliceStack) -> tuple[float, float, float]:
    """Between slices, rows and columns of the stack."""
    height, width = pixel_mm(canonical_of(volume.ijk_to_lps).spacing_mm(volume.spacing_mm), stack.axis)
    return stack.slice_mm, height, width
