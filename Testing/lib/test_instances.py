"""Objects kept apart, from tracks and from whole volumes: lesions, vertebrae, fragments, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from MedicalSAM3Lib import views
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.detector import Detections
from MedicalSAM3Lib.errors import Cancelled
from MedicalSAM3Lib.evidence import StackEvidence
from MedicalSAM3Lib.files import write_segmentation
from MedicalSAM3Lib.findings import Verdict, make_findings
from MedicalSAM3Lib.fusion import Labels, SliceMap, label
from MedicalSAM3Lib.instances import keep_apart, same_objects
from MedicalSAM3Lib.merge import with_tracks
from MedicalSAM3Lib.overlap import dice
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Finding, Progress, Segmentation, Volume
from MedicalSAM3Lib.tracker import Track, TrackedMask
from Testing.lib.fakes import fake_model
from Testing.lib.test_seg_nrrd import mask_of, read
from Testing.lib.test_tracking import FollowBright, oracle

SIDE = 32
"""Of the volumes and of the masks: a voxel is a pixel of the mask, so that nothing is rounded."""

Box = tuple[slice, slice, slice]


def logits_of(mask: np.ndarray) -> torch.Tensor:
    return torch.where(torch.from_numpy(mask), 5.0, -5.0).half()


def track_of(boxes: Sequence[Box], n_slices: int, confidence: float = 0.9, concept: int = 0) -> Track:
    """A track that follows the union of boxes, on the slices that they are on."""
    mask = np.zeros((n_slices, SIDE, SIDE), bool)
    for box in boxes:
        mask[box] = True
    on = np.flatnonzero(mask.any(axis=(1, 2))).tolist()
    return Track(concept, {n: TrackedMask(logits_of(mask[n]), confidence, is_seed=n == on[0]) for n in on})


def apart(
    tracks: Sequence[Track], *more: Box, n_slices: int = 12, concepts: Sequence[str] = ("lesion",), **options: object
) -> Segmentation:
    """What becomes of tracks, and of boxes of the first concept that only the detector saw.

    Args:
        tracks: In mode "fuse"; without any, mode "detect".
        more: Seen by the detector.
        options: ``axis`` across which the slices lie; ``overlap`` "keep"; ``on_progress``.
    """
    axis = options.get("axis", 2)
    shape_kji = np.roll((n_slices, SIDE, SIDE), 2 - axis)  # type: ignore[operator]
    volume = Volume(np.zeros(shape_kji, np.float32), np.eye(4))
    stack = prepare(volume, PreprocessSpec(image_size=SIDE), make_settings(axis=str(axis)))
    seen = np.zeros((n_slices, SIDE, SIDE), bool)
    for box in more:
        seen[box] = True
    maps = {(0, int(n)): SliceMap(logits_of(seen[n]), 0.8) for n in np.flatnonzero(seen.any(axis=(1, 2)))}
    shape = (len(concepts), n_slices)
    detections = Detections(np.full(shape, 0.5), np.full(shape, np.nan), maps)
    if tracks:
        # As where detector and tracker agree on everything: each slice shows what any of them shows.
        followed = with_tracks(replace(detections, maps={}), tracks, "track").maps
        both = {key: torch.maximum(one.logits, maps[key].logits) for key, one in followed.items() if key in maps}
        joined = {key: SliceMap(logits, 0.9) for key, logits in both.items()}
        detections = replace(detections, maps={**maps, **followed, **joined})
    evidence = StackEvidence(detections.maps, stack.region_shape, stack.read)
    labels = label(evidence, range(len(concepts)), lambda *_: options.get("overlap") == "keep", lambda n: None)
    findings = make_findings(
        concepts, [Verdict("found", 0.9)] * len(concepts), detections, labels, stack, 0.0, volume.voxel_ml
    )
    before = Segmentation(tuple(stack.to_input(one) for one in labels.layers), volume.ijk_to_lps, findings)
    on_progress = options.get("on_progress", lambda _: None)
    findings, layers = keep_apart(findings, labels, tracks, evidence, stack, volume, on_progress)  # type: ignore[arg-type]
    result = Segmentation(tuple(stack.to_input(one) for one in layers), volume.ijk_to_lps, findings)
    check_consistent(before, result, stack.axis)
    return result


def check_consistent(before: Segmentation, result: Segmentation, axis: int) -> None:
    """Objects share out the mask, labels are never given twice, and measures are those of the masks."""
    labels = [label for finding in result.findings if finding.objects for label in finding.labels]
    assert len(labels) == len(set(labels))
    assert set(np.unique(result.layers)) - {0} == set(labels)
    for old, finding in zip(before.findings, result.findings, strict=True):
        np.testing.assert_array_equal(result.mask_kji(finding), before.mask_kji(old))
        if finding.state != "found":
            assert finding == old
            continue
        assert (finding.instances, finding.label) == (len(finding.objects), finding.objects[0].label)
        assert sum(part.voxels for part in finding.objects) == finding.voxels
        mean = sum(part.voxels * part.confidence for part in finding.objects) / finding.voxels
        assert mean == pytest.approx(finding.confidence, abs=1e-5)
        for number, part in enumerate(finding.objects, start=1):
            mask = result.object_mask_kji(finding, number)
            slices = np.flatnonzero(np.moveaxis(mask, 2 - axis, 0).any(axis=(1, 2)))
            assert (part.voxels, part.slice_range) == (mask.sum(), (slices[0], slices[-1]))


def box(n: slice | int, row: int, column: int, side: int = 6) -> Box:
    slices = n if isinstance(n, slice) else slice(n, n + 1)
    return slices, slice(row, row + side), slice(column, column + side)


def sizes(segmentation: Segmentation) -> list[int]:
    return [part.voxels for part in segmentation.findings[0].objects]


def test_two_objects_that_touch_on_some_slices_stay_two() -> None:
    left, right = [box(slice(2, 9), 10, 8)], [box(slice(2, 5), 10, 16), box(slice(5, 9), 10, 14)]
    result = apart([track_of(left, 12), track_of(right, 12)])
    assert sizes(result) == [7 * 36, 7 * 36]
    assert apart([], *left, *right).findings[0].instances == 1
    first = result.object_mask_kji(result.findings[0], 1)
    assert first[2:9, 10:16, 8:14].all()


def test_an_object_that_vanishes_and_returns_is_two() -> None:
    result = apart([track_of([box(slice(1, 4), 10, 10)], 12), track_of([box(slice(6, 9), 10, 10)], 12)])
    assert sizes(result) == [3 * 36, 3 * 36]


def test_one_track_with_a_gap_is_one_object() -> None:
    assert sizes(apart([track_of([box(slice(1, 4), 10, 10), box(slice(6, 9), 10, 10)], 12)])) == [6 * 36]


def test_a_part_of_a_track_that_goes_on_as_another_is_the_same_object() -> None:
    whole = [track_of([box(slice(1, 4), 10, 10)], 12), track_of([box(slice(4, 9), 10, 11)], 12)]
    assert sizes(apart(whole)) == [8 * 36]
    aside = [track_of([box(slice(1, 4), 10, 10)], 12), track_of([box(slice(4, 9), 10, 14)], 12)]
    assert sizes(apart(aside)) == [5 * 36, 3 * 36]


def test_what_no_track_follows_joins_what_it_touches_or_stands_alone() -> None:
    followed = track_of([box(slice(2, 6), 10, 10)], 12)
    beside, alone, speck = box(slice(6, 8), 10, 10), box(slice(2, 4), 24, 24), box(9, 1, 1, side=1)
    result = apart([followed], beside, alone, speck)
    assert sizes(result) == [6 * 36 + 1, 2 * 36]


def test_thirty_lesions_are_thirty_from_head_to_foot() -> None:
    places = [(2 * layer, 1 + 5 * column + 2 * (layer % 2)) for layer in range(6) for column in range(5)]
    boxes = [box(slice(n, n + 2), 3, column, side=5) for n, column in places]
    for tracks, more in (([track_of([one], 12) for one in boxes], []), ([], boxes)):
        result = apart(tracks, *more)
        if tracks:
            assert sizes(result) == [50] * 30
            starts = [part.slice_range[0] for part in result.findings[0].objects]
            assert starts == sorted(starts, reverse=True)
        else:
            assert result.findings[0].instances == 1  # they touch: only the tracker keeps them apart


def test_two_dozen_vertebrae_stacked_without_a_gap_are_counted_from_the_neck() -> None:
    """On sagittal slices, where they lie one below the other in each picture; row 0 is the head's."""
    rows = range(4, 28)
    bones = [(slice(3, 9), slice(row, row + 1), slice(10, 20)) for row in rows]
    tracks = [track_of([bone], 12) for bone in bones]
    result = apart(tracks[::-1], axis=0)
    assert sizes(result) == [60] * 24
    heights = [np.flatnonzero(result.object_mask_kji(result.findings[0], 1 + n).any(axis=(1, 2))) for n in range(24)]
    assert [height.tolist() for height in heights] == [[SIDE - 1 - row] for row in rows]
    assert apart([], *bones, axis=0).findings[0].instances == 1


def test_labels_of_two_concepts_follow_on_each_other_in_one_layer_or_two() -> None:
    lesions = [track_of([box(slice(1, 3), 2, 2)], 12), track_of([box(slice(5, 7), 2, 2)], 12)]
    ribs = [track_of([box(slice(5, 7), 2, 4)], 12, 0.5, 1), track_of([box(slice(9, 11), 20, 20)], 12, 0.5, 1)]
    for overlap, layers in (("exclusive", 1), ("keep", 2)):
        result = apart([*lesions, *ribs], concepts=("lesion", "rib"), overlap=overlap)
        assert [finding.labels for finding in result.findings] == [(1, 2), (3, 4)]
        assert len(result.layers) == layers
        assert result.findings[1].objects[1].voxels == (72 if overlap == "keep" else 24)


def test_what_was_not_found_has_no_objects() -> None:
    result = apart([track_of([box(slice(1, 3), 2, 2)], 12)], concepts=("lesion", "rib"))
    assert (result.findings[1].state, result.findings[1].objects) == ("not_found", ())
    with pytest.raises(IndexError, match="from 1 to 0, got 1"):
        result.object_mask_kji(result.findings[1], 1)
    with pytest.raises(IndexError, match="from 1 to 1, got 0"):
        result.object_mask_kji(result.findings[0], 0)


def test_nothing_at_all_is_no_object() -> None:
    labels = Labels([np.zeros((2, SIDE, SIDE), np.uint16)], {}, {}, {})
    volume = Volume(np.zeros((2, SIDE, SIDE), np.float32), np.eye(4))
    stack = prepare(volume, PreprocessSpec(image_size=SIDE), make_settings(axis="2"))
    nothing = StackEvidence({}, stack.region_shape, stack.read)
    findings, layers = keep_apart([Finding("rib", "not_found")], labels, [], nothing, stack, volume, lambda _: None)
    assert findings == (Finding("rib", "not_found"),)
    assert not layers[0].any()


def test_progress_goes_from_none_to_all_and_can_cancel() -> None:
    seen: list[Progress] = []
    lesions = [track_of([box(slice(1, 4), 2, 2)], 12), track_of([box(slice(5, 7), 20, 20)], 12, 0.5, 1)]
    both = ("lesion", "rib")
    apart(lesions, concepts=both, on_progress=seen.append)
    assert seen == [Progress("objects", done, 5) for done in range(6)]

    def cancel(progress: Progress) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        apart(lesions, concepts=both, on_progress=cancel)


def test_tracks_are_one_object_by_chains_of_overlaps_and_never_by_a_slice_between() -> None:
    one, same = track_of([box(slice(0, 4), 10, 10)], 12), track_of([box(slice(2, 6), 10, 11)], 12)
    follows, later = track_of([box(slice(6, 8), 10, 11)], 12), track_of([box(slice(9, 11), 10, 11)], 12)
    crosses = track_of([box(slice(0, 4), 10, 14)], 12)  # overlaps with the first by a fifth
    assert same_objects([one, same, follows, later, crosses]).tolist() == [0, 0, 0, 1, 2]
    assert same_objects([]).tolist() == []


def test_a_track_that_goes_on_after_another_began_is_not_joined_by_its_middle() -> None:
    long = track_of([box(slice(0, 9), 10, 10)], 12)
    short = track_of([box(slice(4, 6), 20, 20)], 12)
    assert same_objects([long, short]).tolist() == [0, 1]


def discs(n_slices: int = 8) -> tuple[Volume, np.ndarray, np.ndarray]:
    """Two bright bars side by side that touch on the middle slices only."""
    grey = np.zeros((n_slices, 48, 48), np.float32)
    one, other = np.zeros(grey.shape, bool), np.zeros(grey.shape, bool)
    one[1:7, 12:20, 8:20] = True
    other[1:7, 26:34, 8:20] = True
    grey[one | other] = 255.0
    return Volume(grey, np.eye(4), modality="GREY"), one, other


@pytest.mark.parametrize("mode", ["detect", "track", "fuse"])
@pytest.mark.parametrize("overlap", ["exclusive", "keep"])
def test_a_whole_run_keeps_objects_apart(
    mode: str, overlap: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(views, "BoundTracker", FollowBright)
    volume, one, other = discs()
    settings = make_settings(speed="exact", mode=mode, overlap=overlap, instances=True)
    result = segment(volume, ["rod"], oracle(), settings)
    (finding,) = result.findings
    assert finding.instances == 2
    for number, mask in ((1, one), (2, other)):
        np.testing.assert_array_equal(result.object_mask_kji(finding, number), mask)
    write_segmentation(tmp_path / "out.seg.nrrd", result, volume)
    back = read(tmp_path / "out.seg.nrrd")
    assert [one["name"] for one in back["segments"]] == ["rod 1", "rod 2"]
    np.testing.assert_array_equal(mask_of(back, 1), other)


@pytest.mark.parametrize("mode", ["detect", "fuse"])
def test_objects_are_kept_apart_where_three_views_voted(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BoundTracker", FollowBright)
    volume, one, other = discs()
    settings = make_settings(speed="exact", mode=mode, axis="all", instances=True)
    result = segment(volume, ["rod"], oracle(), settings)
    (finding,) = result.findings
    assert finding.instances == 2
    for number, mask in ((1, one), (2, other)):
        assert dice(result.object_mask_kji(finding, number), mask) > 0.95


@pytest.mark.parametrize("mode", ["detect", "fuse"])
def test_objects_of_a_picture(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BoundTracker", FollowBright)
    volume, one, _ = discs()
    picture = replace(volume, array=volume.array[3:4], is_2d=True)
    result = segment(picture, ["rod"], oracle(), make_settings(speed="exact", mode=mode, instances=True))
    assert result.findings[0].instances == 2
    np.testing.assert_array_equal(result.object_mask_kji(result.findings[0], 1), one[3:4])  # the upper one


def test_without_the_setting_nothing_is_kept_apart() -> None:
    volume, one, other = discs()
    result = segment(volume, ["rod"], fake_model({"rod": (0.75, 1.5)}), make_settings(speed="exact"))
    finding = result.findings[0]
    assert (finding.instances, finding.objects, finding.labels) == (2, (), (1,))
    np.testing.assert_array_equal(result.layers[0] == 1, one | other)
