"""What is told where a model is asked about a kind of image that it never saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.pipeline import segment_with_report
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.trained_on import TrainedOn
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import spheres

TRUNK = TrainedOn(("CT", "MR"), (2,))
PICTURE = "This model was trained on CT and MR and never saw pictures: what it says of them may mean nothing."
OTHER_AXES = (
    "This model was trained on axial slices and never saw sagittal and coronal ones: what it says of them may mean "
    "nothing."
)


@pytest.mark.parametrize(
    ("modality", "axes", "is_picture", "told"),
    [
        ("CT", [2], False, []),
        ("", [2], False, []),
        ("GREY", [2], True, [PICTURE]),
        ("GREY", [0], True, [PICTURE]),
        ("US", [2], False, [PICTURE.replace("pictures", "US")]),
        ("MR", [2, 0, 1], False, [OTHER_AXES]),
        ("RGB", [1], False, [PICTURE, OTHER_AXES.replace("sagittal and ", "")]),
    ],
)
def test_each_strange_kind_is_told(modality: str, axes: list[int], is_picture: bool, told: list[str]) -> None:
    assert TRUNK.notices(modality, axes, is_picture=is_picture) == told


def test_nothing_is_told_where_nothing_is_recorded() -> None:
    assert TrainedOn().notices("US", [0, 1, 2], is_picture=False) == []


def test_a_run_tells_it() -> None:
    volume, _ = spheres({255.0: (0.4, 0.55, 0.5)}, modality="MR")
    model = replace(fake_model({"liver": (0.5, 1.5)}), trained_on=TRUNK)

    def told(image: Volume, axis: str) -> tuple[str, ...]:
        return segment_with_report(image, ["liver"], model, make_settings(speed="exact", axis=axis))[1].notices

    assert told(volume, "2") == ()
    assert told(volume, "all") == (OTHER_AXES,)
    picture = Volume(np.full((1, 20, 20), 7, np.float32), np.eye(4), "GREY", is_2d=True)
    assert PICTURE in told(picture, "auto")
