"""Write a case of a data set as files of the project, and turn what is known about it into manifest rows."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.model_folder import sha256_of
from MedicalSAM3Lib.outputs import set_affine
from MedicalSAM3Lib.structures import Volume
from Training.adapters.case import Case, CaseFiles
from Training.adapters.knowledge import pixels_on_slices
from Training.adapters.reading import is_picture
from Training.dataset_spec import DatasetSpec, concept_id
from Training.manifest import ManifestRow
from Training.packages import axis_of_slices
from Training.splits import Member, Split

State = Literal["present", "absent", "unknown"]


@dataclass(frozen=True, slots=True)
class Written:
    """A case on disk, before it has a split.

    Attributes:
        image, masks: Files relative to the manifest; masks by concept name.
        states: Concept name to the state of each slice.
        pieces, objects: Concept name to connected pieces, and to numbered objects.
    """

    case_id: str
    image: str
    masks: Mapping[str, str]
    states: Mapping[str, tuple[State, ...]]
    pieces: Mapping[str, int]
    objects: Mapping[str, int]
    patient: str
    axis: Literal[0, 1, 2]
    spacing: tuple[float, float, float]
    modality: str
    sha256: str

    def member(self) -> Member:
        """What its split depends on."""
        return Member(self.case_id, self.patient, self.sha256)


def write_case(case: Case, files: CaseFiles, spec: DatasetSpec, out: Path) -> Written:
    """Write the image, and a mask for each concept that it shows.

    Pictures stay as they are, or become PNG; volumes become NIfTI.

    Raises:
        OutputError: The folder is not writable, or the disk is full.
    """
    image = _write_image(case, out, files.case_id)
    masks = {}
    for concept, mask in case.masks_kji.items():
        if mask.any():
            name = f"masks/{concept_id(concept)}/{files.case_id}{'.png' if case.image.is_2d else '.nii.gz'}"
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            _write_array(out / name, mask, case.image)
            masks[concept] = name
    known = {concept: flags for concept, flags in case.known.items() if flags.any()}
    return Written(
        case_id=files.case_id,
        image=image,
        masks=masks,
        states={concept: _states(case.masks_kji.get(concept), flags) for concept, flags in known.items()},
        pieces={concept: int(ndimage.label(case.masks_kji[concept])[1]) for concept in masks},
        objects={
            concept: len(np.unique(case.masks_kji[concept])) - (case.masks_kji[concept] == 0).any() for concept in masks
        },
        patient=pseudonym(spec.name, files.patient),
        axis=2 if case.image.is_2d else axis_of_slices(case.image.ijk_to_lps),
        spacing=case.image.spacing_mm,
        modality=_modality(case.image, out / image, spec),
        sha256=sha256_of(out / image),
    )


def _modality(image: Volume, path: Path, spec: DatasetSpec) -> str:
    """What inference will take the written file for: pictures say no more than whether they have colours."""
    if is_picture(path):
        return "RGB" if image.array.ndim == 4 else "GREY"
    return image.modality or spec.modality


def pseudonym(dataset: str, patient: str) -> str:
    """A name for a patient that says nothing about the person and is the same each time; "" for nobody known."""
    if not patient:
        return ""
    return f"{dataset}-{hashlib.sha256(f'{dataset}/{patient.casefold()}'.encode()).hexdigest()[:12]}"


def rows_of(written: Written, spec: DatasetSpec, split: Split) -> Iterator[ManifestRow]:
    """A row for each slice and concept about which something is known."""
    for concept, states in written.states.items():
        for number, state in enumerate(states):
            if state == "unknown":
                continue
            yield ManifestRow(
                dataset=spec.name,
                image=written.image,
                mask=written.masks.get(concept, ""),
                volume_id=f"{spec.name}-{written.case_id}",
                axis=written.axis,
                slice_index=number,
                concept=concept_id(concept),
                phrase=concept,
                label_state=state,
                patient=written.patient or f"{spec.name}-{written.case_id}",
                split=split,
                modality=written.modality,
                spacing=written.spacing,
                sha256=written.sha256,
                licence=spec.licence,
            )


def _states(mask_kji: np.ndarray | None, known: np.ndarray) -> tuple[State, ...]:
    shown = pixels_on_slices(mask_kji, len(known)) > 0
    return tuple(
        "unknown" if not is_known else "present" if is_shown else "absent"
        for is_known, is_shown in zip(known, shown, strict=True)
    )


def _write_image(case: Case, out: Path, case_id: str) -> str:
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    if case.image_file is not None:
        name = f"{case_id}{case.image_file.suffix.lower()}"
        with replacing(folder / name) as (partial,):
            shutil.copyfile(case.image_file, partial)
        return f"images/{name}"
    is_8_bit = (
        case.image.is_2d
        and _is_whole(case.image.array)
        and 0 <= case.image.array.min() <= case.image.array.max() <= 255
    )
    name = f"{case_id}{'.png' if is_8_bit or case.image.array.ndim == 4 else '.nii.gz'}"
    array = case.image.array
    _write_array(folder / name, array.astype(_smallest(array)), case.image)
    return f"images/{name}"


def _write_array(path: Path, array: np.ndarray, grid: Volume) -> None:
    """Write ``(K, J, I)`` or ``(1, J, I, 3)`` by the suffix; every file is whole or not there."""
    with replacing(path) as (partial,):
        if path.suffix == ".png":
            from PIL import Image

            small = array[0].astype(np.uint8) if array.max(initial=0) <= 255 else array[0].astype(np.uint16)
            Image.fromarray(small).save(partial)
            return
        image = sitk.GetImageFromArray(array)
        set_affine(image, grid.ijk_to_lps)
        sitk.WriteImage(image, str(partial), useCompression=True)


def _is_whole(array: np.ndarray) -> bool:
    return bool((array == np.rint(array)).all())


def _smallest(array: np.ndarray) -> type[np.generic]:
    """int16 where that keeps every value, else float32."""
    if _is_whole(array) and array.min() >= -32768 and array.max() <= 32767:
        return np.uint8 if array.ndim == 4 else np.int16
    return np.float32
