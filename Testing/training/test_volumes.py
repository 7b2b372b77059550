"""From an adapter's volume to files, manifest and memory: every voxel and every state in its place."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.geometry import canonical_of, slices_along
from Testing.lib.phantoms import oblique_affine
from Testing.training.data_world import SPEC, boxes_hu, image_of, labelled, write_world
from Training.adapters.labelled import LabelledVolume
from Training.collate import LabelState
from Training.manifest import ManifestRow, read_manifest, write_manifest
from Training.volumes import TrainingVolume, load_volumes, no_finer_than

SPACING = (2.0, 2.5, 3.0)


def load(path: Path, crop: str = "body") -> tuple[TrainingVolume, tuple[str, ...]]:
    manifest = read_manifest(path)
    concepts = manifest.concepts()
    (volume,) = load_volumes(manifest, concepts, SPEC.model_copy(update={"image_size": 96, "crop": crop}))
    return volume, concepts


def stored_as(affine: np.ndarray, volume: LabelledVolume) -> LabelledVolume:
    """The same body in the patient, with its voxels stored in the order of an affine."""
    canonical = canonical_of(affine)
    array = np.ascontiguousarray(canonical.to_input(sitk.GetArrayFromImage(volume.image)))
    masks = {concept: np.ascontiguousarray(canonical.to_input(mask)) for concept, mask in volume.masks_kji.items()}
    return replace(
        volume, image=image_of(array, affine), masks_kji=masks, splits=("train",) * len(array),
        known_slices=(0, len(array) - 1),
    )  # fmt: skip


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_an_oblique_flipped_volume_comes_back_voxel_for_voxel(
    tmp_path: Path, order: tuple[int, int, int], signs: tuple[int, int, int]
) -> None:
    volume = stored_as(oblique_affine(SPACING, (9.0, -5.0, 8.0), order, signs), labelled())
    loaded, concepts = load(write_world(tmp_path, [volume]), crop="none")
    axis = 2 - canonical_of(read_volume(tmp_path / "ct" / "image.nii.gz").ijk_to_lps).permutation.index(0)
    array, masks = boxes_hu()
    np.testing.assert_array_equal(loaded.slices, slices_along(array, axis))
    for concept, mask in masks.items():
        np.testing.assert_array_equal(loaded.coverage.mask(concepts.index(concept)), slices_along(mask, axis))
        present = loaded.states[:, concepts.index(concept)] == LabelState.PRESENT
        np.testing.assert_array_equal(present, slices_along(mask, axis).any((1, 2)))
    k, j, i = (sorted_spacing(volume.image)[n] for n in range(3))
    assert loaded.pixel_mm == pytest.approx(((k, j), (k, i), (j, i))[axis])


def sorted_spacing(image: sitk.Image) -> tuple[float, float, float]:
    """Spacing along the canonical k, j, i."""
    direction = np.abs(np.reshape(image.GetDirection(), (3, 3)))
    i, j, k = (float(image.GetSpacing()[int(np.argmax(direction[lps]))]) for lps in range(3))
    return k, j, i


def test_the_patients_right_is_at_the_left_of_the_picture_however_it_was_stored(tmp_path: Path) -> None:
    affine = oblique_affine((2.0, 2.0, 2.0), (5.0, 5.0, 5.0), (0, 1, 2), (-1, -1, -1))
    loaded, concepts = load(write_world(tmp_path, [stored_as(affine, labelled())]))
    columns = [
        np.argwhere(loaded.coverage.mask(concepts.index(side)))[:, 2].mean() for side in ("right_kidney", "left_kidney")
    ]
    assert columns[0] < loaded.slices.shape[2] / 2 < columns[1]


def test_numbers_and_splits_follow_the_file_when_slices_run_down(tmp_path: Path) -> None:
    splits = ["train"] * 5 + [""] * 2 + ["val"] * 5
    affine = np.diag([2.0, 2.0, -2.0, 1.0])
    volume = replace(stored_as(affine, labelled()), splits=tuple(splits))
    loaded, _ = load(write_world(tmp_path, [volume]))
    assert loaded.numbers.tolist() == list(range(11, -1, -1))
    assert list(loaded.splits) == splits[::-1]
    assert loaded.of_split("val").tolist() == [0, 1, 2, 3, 4]


def test_three_states_from_what_an_adapter_knows(tmp_path: Path) -> None:
    loaded, concepts = load(write_world(tmp_path, [labelled(known_slices=(2, 8))]))
    liver, bladder = concepts.index("liver"), concepts.index("urinary_bladder")
    unknown, absent, present = LabelState.UNKNOWN, LabelState.ABSENT, LabelState.PRESENT
    assert loaded.states[:, liver].tolist() == [unknown] * 2 + [present] * 4 + [absent] * 3 + [unknown] * 3
    assert loaded.states[:, bladder].tolist() == [absent] * 12


def test_a_concept_of_another_volume_is_unknown(tmp_path: Path) -> None:
    other = labelled("other", masks_kji={"aorta": boxes_hu()[1]["liver"]}, absent=())
    manifest = read_manifest(write_world(tmp_path, [labelled(), other]))
    volume = load_volumes(manifest, manifest.concepts(), SPEC)[0]
    assert (volume.states[:, manifest.concepts().index("aorta")] == LabelState.UNKNOWN).all()


def test_the_body_is_cropped_in_ct_only(tmp_path: Path) -> None:
    loaded, _ = load(write_world(tmp_path, [labelled()]))
    assert loaded.slices.shape == loaded.coverage.shape == (12, 28, 38)
    magnetic = tmp_path / "mr"
    loaded, _ = load(write_world(magnetic, [labelled(modality="MR")]))
    assert loaded.slices.shape == loaded.coverage.shape == (12, 30, 40)


def test_pictures_are_shrunk_to_the_canvas_by_the_mean_over_each_new_pixel() -> None:
    slices = np.indices((1, 8, 8)).sum(0).astype(np.float32) % 2 * 100
    coverage = np.zeros((1, 8, 8), np.int64)
    coverage[0, :, 4:] = 5
    shrunk, bits, size_mm = no_finer_than(4, slices, coverage, (1.0, 1.0))
    assert size_mm == (2.0, 2.0)
    assert bits.tolist() == [[[0, 0, 5, 5]] * 4]
    np.testing.assert_allclose(shrunk[0, 1:3, 1:3], 50.0, atol=1e-4)


def test_a_long_picture_is_shrunk_alike_in_both_directions() -> None:
    shrunk, bits, size_mm = no_finer_than(10, np.zeros((2, 10, 20)), np.zeros((2, 10, 20), np.int64), (2.0, 2.0))
    assert shrunk.shape == bits.shape == (2, 5, 10)
    assert size_mm == (4.0, 4.0)


def test_pictures_that_the_canvas_enlarges_stay_as_they_are() -> None:
    slices, coverage = np.random.default_rng(0).normal(size=(2, 6, 8)), np.ones((2, 6, 8), np.int64)
    same, bits, size_mm = no_finer_than(8, slices, coverage, (1.5, 1.5))
    np.testing.assert_array_equal(same, slices)
    np.testing.assert_array_equal(bits, coverage)
    assert size_mm == (1.5, 1.5)


def test_a_volume_in_which_everything_is_absent_needs_no_mask(tmp_path: Path) -> None:
    loaded, concepts = load(write_world(tmp_path, [labelled(masks_kji={})]))
    assert concepts == ("urinary_bladder",)
    assert not loaded.coverage.any()
    assert (loaded.states == LabelState.ABSENT).all()


def rows_of(path: Path) -> list[ManifestRow]:
    return list(read_manifest(path).rows)


def test_a_volume_may_have_more_concepts_than_a_number_has_bits(tmp_path: Path) -> None:
    array, _ = boxes_hu()
    masks = {f"part_{number:03}": np.zeros(array.shape, bool) for number in range(130)}
    for number, mask in enumerate(masks.values()):
        mask[3, 10, 8 : 9 + number % 20] = True  # they overlap
    loaded, concepts = load(write_world(tmp_path, [labelled(masks_kji=masks)]), crop="none")
    assert len(concepts) == 131
    for concept, mask in masks.items():
        np.testing.assert_array_equal(loaded.coverage.mask(concepts.index(concept)), mask)
    assert loaded.coverage.ids.dtype == np.uint8


def test_a_file_that_cannot_be_read_is_named_by_its_row(tmp_path: Path) -> None:
    path = write_world(tmp_path, [labelled("first"), labelled("second")])
    image = tmp_path / "second" / "image.nii.gz"
    image.write_bytes(image.read_bytes()[:400])
    manifest = read_manifest(path)
    row = next(number for number, row in enumerate(manifest.rows) if row.volume_id == "second")
    with pytest.raises(InputError, match=f"Row {row} of the manifest, data set 'boxes'"):
        load_volumes(manifest, manifest.concepts(), SPEC)


@pytest.mark.parametrize("moved", [False, True])
def test_a_mask_on_another_grid_is_refused(tmp_path: Path, moved: bool) -> None:
    path = write_world(tmp_path, [labelled()])
    mask = tmp_path / "ct" / "liver.nii.gz"
    image = sitk.ReadImage(str(mask))
    if moved:
        image.SetOrigin((0.0, 0.0, 10.0))
    sitk.WriteImage(image if moved else image[:, :, 1:], str(mask))
    with pytest.raises(InputError, match="mask of 'liver' in 'ct' on the grid of its image"):
        load(path)


def test_slices_that_the_image_does_not_have_are_refused(tmp_path: Path) -> None:
    path = write_world(tmp_path, [labelled()])
    rows = rows_of(path)
    write_manifest(path, [*rows, rows[0].model_copy(update={"slice_index": 12})])
    with pytest.raises(InputError, match="slices 0 to 11 along one axis"):
        load(path)


def test_two_axes_under_one_volume_id_are_refused(tmp_path: Path) -> None:
    path = write_world(tmp_path, [labelled()])
    rows = rows_of(path)
    write_manifest(path, [*rows, rows[0].model_copy(update={"axis": 1})])
    with pytest.raises(InputError, match="along one axis"):
        load(path)
