"""Raw labels become masks: every way of writing them, and every way of getting them wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from MedicalSAM3Lib.errors import InputError
from Testing.training.dataset_trees import SHAPE, box
from Training.adapters import decode
from Training.adapters.coco import decode_object
from Training.adapters.decode import Masks
from Training.adapters.polygons import fill
from Training.adapters.run_length import decode_runs
from Training.dataset_layouts import RunLengthLayout
from Training.dataset_spec import DatasetSpec

INSIDE = box(1, 1, 2, 2)[None]


def spec_of(labels: dict[str, Any], **changes: Any) -> DatasetSpec:
    layout = {"kind": "pairs", "image": "{id}.png", "mask": "{id}_m.png"}
    values = {"name": "x", "title": "X", "licence": "CC0", "layouts": [layout], "labels": labels, **changes}
    return DatasetSpec.model_validate(values)


def masks_of(labels: dict[str, Any], **changes: Any) -> Masks:
    return Masks(spec_of(labels, **changes), (1, *SHAPE))


@pytest.mark.parametrize(
    ("value", "options"), [(1, {}), (255, {}), (7, {}), (255, {"lossy": True}), (1, {"soft": True})]
)
def test_two_values_are_inside_and_outside(value: int, options: dict[str, bool]) -> None:
    masks = masks_of({"inside": "polyp"})
    decode.add_binary(masks, INSIDE * float(value), "", **{"lossy": False, "soft": False, **options})
    assert np.array_equal(masks.masks_kji["polyp"], INSIDE)
    assert masks.unexpected == []


@pytest.mark.parametrize("options", [{"lossy": True}, {"soft": True}])
def test_an_empty_mask_that_was_compressed_stays_empty(options: dict[str, bool]) -> None:
    masks = masks_of({"inside": "polyp"})
    decode.add_binary(masks, INSIDE * 9.0, "", **{"lossy": False, "soft": False, **options})
    assert not masks.masks_kji["polyp"].any()


def test_a_smoothed_mask_is_divided_in_the_middle() -> None:
    masks = masks_of({"inside": "polyp"})
    ramp = np.broadcast_to(np.linspace(0, 255, SHAPE[1]).round(), (1, *SHAPE))
    decode.add_binary(masks, ramp, "", lossy=False, soft=False)
    assert np.array_equal(masks.masks_kji["polyp"] > 0, ramp > 127.5)
    assert masks.unexpected == []


def test_a_mask_that_is_full_or_empty_is_that() -> None:
    for value, expected in ((255.0, True), (0.0, False)):
        masks = masks_of({"inside": "polyp"})
        decode.add_binary(masks, np.full((1, *SHAPE), value), "", lossy=False, soft=False)
        assert masks.masks_kji["polyp"].all() == masks.masks_kji["polyp"].any() == expected


@pytest.mark.parametrize("values", [(0, 128, 255), (3, 9), (-1, 1)])
def test_other_values_in_a_binary_mask_are_named(values: tuple[int, ...]) -> None:
    masks = masks_of({"inside": "polyp"})
    raw = np.full((1, *SHAPE), values[0], np.float32)
    for place, value in enumerate(values[1:]):
        raw[:, 8 * place] = value
    decode.add_binary(masks, raw, "", lossy=False, soft=False)
    assert len(masks.unexpected) == 1
    assert str(values[-1]) in masks.unexpected[0]


def test_numbers_become_the_concepts_of_the_dictionary() -> None:
    masks = masks_of({"1": "liver", "2": ["kidney", "left kidney"], "0": "background tissue"}, ignored=["9"])
    raw = np.zeros((1, *SHAPE), np.float32)
    raw[INSIDE], raw[0, 0], raw[0, 1], raw[0, 2] = 1, 2, 9, 4.5
    decode.add_labels(masks, raw)
    assert np.array_equal(masks.masks_kji["liver"] > 0, INSIDE)
    assert np.array_equal(masks.masks_kji["kidney"], masks.masks_kji["left kidney"])
    assert masks.masks_kji["kidney"].sum() == SHAPE[1]
    assert masks.masks_kji["background tissue"].any()
    assert masks.unexpected == ["4.5"]


def test_a_coloured_picture_is_no_mask_of_numbers() -> None:
    with pytest.raises(InputError, match="form: colours"):
        decode.add_labels(masks_of({"1": "liver"}), np.arange(1 * 4 * 4 * 3.0).reshape(1, 4, 4, 3))


def test_a_lossless_colour_must_be_the_one_of_the_dictionary() -> None:
    raw = INSIDE[..., None] * np.array([250.0, 4.0, 0.0])
    near, exact = masks_of({"#ff0000": "polyp"}), masks_of({"#ff0000": "polyp"})
    decode.add_colours(near, raw, lossy=True)
    decode.add_colours(exact, raw, lossy=False)
    assert np.array_equal(near.masks_kji["polyp"] > 0, INSIDE)
    assert exact.unexpected == ["#fa0400"]
    assert not exact.masks_kji


def test_objects_keep_their_numbers_apart_and_new_ones_are_made() -> None:
    raw = np.zeros((1, *SHAPE), np.float32)
    raw[0, :8], raw[0, 8:16] = 70_000, 12
    masks = masks_of({"inside": "nucleus"})
    decode.add_instances(masks, raw, "")
    decode.add_instances(masks, np.roll(raw, 16, axis=1), "")
    assert np.unique(masks.masks_kji["nucleus"]).tolist() == [1, 2, 3, 4]
    coloured = masks_of({"inside": "nucleus"})
    decode.add_instances(coloured, np.stack([raw % 256, raw // 256 % 256, raw // 65536], -1), "")
    assert np.unique(coloured.masks_kji["nucleus"]).tolist() == [0, 1, 2]


def test_more_objects_than_a_mask_can_number_are_refused() -> None:
    with pytest.raises(InputError, match="at most 65535 objects"):
        decode.add_instances(
            Masks(spec_of({"inside": "x"}), (1, 300, 300)), np.arange(90_000.0).reshape(1, 300, 300), ""
        )


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"as the image, got \(1, 8, 8\)"):
        masks_of({"inside": "x"}).add("inside", np.ones((1, 8, 8), np.uint16))


def test_any_other_label_may_have_a_concept() -> None:
    masks = masks_of({"*": "tumor"}, ignored=["normal"])
    masks.add_object("osteosarcoma", INSIDE)
    masks.add_object("normal", ~INSIDE)
    assert np.array_equal(masks.masks_kji["tumor"] > 0, INSIDE)


@pytest.mark.parametrize("raw", [np.eye(3)[None] * 255, np.eye(32)[None] * 255])
def test_an_outline_that_is_no_ellipse_is_refused(raw: np.ndarray) -> None:
    with pytest.raises(InputError, match="outline of an ellipse"):
        decode.add_outline(Masks(spec_of({"inside": "x"}), raw.shape), raw, "")


def test_a_picture_without_an_outline_is_empty() -> None:
    masks = masks_of({"inside": "x"})
    decode.add_outline(masks, np.zeros((1, *SHAPE)), "")
    assert not masks.masks_kji["x"].any()


@given(arrays(bool, (5, 7)), st.sampled_from(["absolute", "relative"]), st.sampled_from(["columns", "rows"]))
def test_run_lengths_come_back(mask: np.ndarray, starts: str, order: str) -> None:
    layout = RunLengthLayout.model_validate(
        {"kind": "run_length", "table": "t.csv", "image": "{id}.png", "id_column": "a", "code_column": "b",
         "starts": starts, "order": order}
    )  # fmt: skip
    values = np.concatenate([[False], (mask.T if order == "columns" else mask).ravel(), [False]])
    edges = np.flatnonzero(values[1:] != values[:-1])
    first, end = edges[::2], edges[1::2]
    before = np.concatenate([[0], end[:-1]])[: len(first)]
    written = first + 1 if starts == "absolute" else first - before
    code = " ".join(f"{start} {length}" for start, length in zip(written, end - first, strict=True))
    assert np.array_equal(decode_runs(code, (5, 7), layout), mask)


@pytest.mark.parametrize("code", ["1", "1 x", "30 9", "0 1", "-3 2"])
def test_run_lengths_that_make_no_sense_are_refused(code: str) -> None:
    layout = RunLengthLayout(kind="run_length", table=("t.csv",), image=("{id}.png",), id_column="a", code_column="b")
    with pytest.raises(InputError, match="run lengths"):
        decode_runs(code, (5, 7), layout)


@given(arrays(bool, (6, 9)))
def test_the_run_lengths_of_coco_come_back(mask: np.ndarray) -> None:
    values = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(values, prepend=0))
    counts = np.diff(np.concatenate([[0], edges, [values.size]])).tolist()
    assert np.array_equal(decode_object({"counts": counts, "size": [6, 9]}, (6, 9)), mask)
    from pycocotools import mask as coco_masks

    compressed = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(decode_object(compressed, (6, 9)), mask)


@pytest.mark.parametrize(
    "segmentation",
    [[], None, [[]], [[1, 2, 3, 4]], {"counts": [54], "size": [9, 6]}, {"size": [6, 9]}, {"counts": 5, "size": [6, 9]}],
)
def test_an_annotation_without_an_outline_is_refused(segmentation: Any) -> None:
    with pytest.raises(InputError, match="Expected"):
        decode_object(segmentation, (6, 9))


def test_a_polygon_without_the_list_around_it_is_read() -> None:
    corners = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
    assert np.array_equal(decode_object(corners, (6, 9)), decode_object([corners], (6, 9)))
    assert decode_object(corners, (6, 9)).sum() == 12


def test_a_polygon_beyond_the_picture_is_cut_off() -> None:
    inside = fill(np.array([[-5.0, -5.0], [3.0, -5.0], [3.0, 3.0], [-5.0, 3.0]]), (6, 9))
    assert inside[:4, :4].all()
    assert inside.sum() == 16
