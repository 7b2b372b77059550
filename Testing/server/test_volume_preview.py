"""A volume comes back from the server as it was read, in a form that a browser can show."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from MedicalSAM3Lib import volume_preview
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.nifti import read_nifti
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.tokens import Token
from Testing.lib.phantoms import oblique_affine
from Testing.server.server_world import OTHER_SECRET, SECRET, ball, bearer, png, world


def test_volume_comes_back_voxel_for_voxel(tmp_path: Path) -> None:
    with world(tmp_path, real_children=True) as server:
        reply = server.client.get(f"/v1/volumes/{server.volume()}/preview")
    assert reply.status_code == 200
    (tmp_path / "got.nii.gz").write_bytes(reply.content)
    image = sitk.ReadImage(str(tmp_path / "got.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ball())
    assert image.GetSpacing() == pytest.approx((1.0, 2.0, 3.0))


def test_picture_comes_back_as_png(tmp_path: Path) -> None:
    picture = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    with world(tmp_path, real_children=True) as server:
        volume = server.upload(png(picture), "photo.png").json()["volume_id"]
        replies = [server.client.get(f"/v1/volumes/{volume}/preview") for _ in range(2)]
    for reply in replies:
        assert reply.headers["content-type"] == "image/png"
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(reply.content))), picture)


def test_nobody_sees_another_ones_volume(tmp_path: Path) -> None:
    tokens = (Token.of("ward", SECRET), Token.of("research", OTHER_SECRET))
    with world(tmp_path, tokens=tokens) as server:
        path = f"/v1/volumes/{server.volume(**bearer())}/preview"
        reply = server.client.get(path, headers=bearer(OTHER_SECRET))
    assert reply.status_code == 404
    assert reply.json()["code"] == "volume"


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array([[[-32767.0, 32767.0]]]), sitk.sitkInt16),
        (np.array([[[0.0, 32768.0]]]), sitk.sitkFloat32),
        (np.array([[[0.0, 0.5]]]), sitk.sitkFloat32),
    ],
)
def test_no_value_is_lost(tmp_path: Path, array: np.ndarray, kind: int) -> None:
    affine = oblique_affine()
    volume_preview.write(tmp_path, Volume(array.astype(np.float32), affine))
    assert sitk.ReadImage(str(tmp_path / volume_preview.VOLUME)).GetPixelID() == kind
    back, _ = read_nifti(tmp_path / volume_preview.VOLUME, None)
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_allclose(back.ijk_to_lps, affine, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == [volume_preview.VOLUME]


def test_colours_of_a_volume_become_their_mean(tmp_path: Path) -> None:
    array = np.zeros((2, 3, 4, 3), np.float32)
    array[..., 1] = 90
    volume_preview.write(tmp_path, Volume(array, np.eye(4), "RGB"))
    np.testing.assert_array_equal(read_nifti(tmp_path / volume_preview.VOLUME, None)[0].array, np.full((2, 3, 4), 30))


def test_a_picture_of_more_than_8_bits_is_stretched(tmp_path: Path) -> None:
    array = np.array([[[-100.0, 0.0, 900.0]]], np.float32)
    volume_preview.write(tmp_path, Volume(array, np.eye(4), "GREY", is_2d=True))
    assert np.asarray(Image.open(tmp_path / volume_preview.PICTURE)).tolist() == [[0, 26, 255]]


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        volume_preview.write(tmp_path / "gone", Volume(np.zeros((1, 2, 2), np.float32), np.eye(4)))


def test_pages_files_are_served_packed(tmp_path: Path) -> None:
    with world(tmp_path) as server:
        viewer = server.client.get("/web/niivue.umd.js.gz")
        assert viewer.headers["content-encoding"] == "gzip"
        assert viewer.headers["content-type"].startswith("text/javascript")
        assert b"niivue" in viewer.content  # the client has unpacked it, as a browser does
        script = server.client.get("/web/app.js")
        assert "content-encoding" not in script.headers
        assert "'unsafe" not in script.headers["content-security-policy"]
