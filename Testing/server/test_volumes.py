"""Volumes: whose they are, how long they stay, samples, and what the engines remember."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from MedicalSAM3Lib import volume_files
from MedicalSAM3Lib.resources import resource
from Testing.server.server_world import OTHER_SECRET, SECRET, World, ball, bearer, nifti, world
from Testing.server.test_decoding import dicom_files, zipped
from Testing.server.test_guard import TOKENS


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as running:
        yield running


def test_nothing_is_there_at_first(one: World) -> None:
    assert one.client.get("/v1/volumes").json() == []
    assert one.client.get("/v1/volumes/nothing").json()["code"] == "volume"
    assert one.client.delete("/v1/volumes/nothing").status_code == 404


def test_a_volume_is_stored_without_its_name(one: World) -> None:
    reply = one.upload(nifti(ball()), "Miller_Ada_1950.nii.gz").json()
    assert one.client.get(f"/v1/volumes/{reply['volume_id']}").json() == reply
    assert one.client.get("/v1/volumes").json() == [reply]
    assert reply["affine"] == [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]
    (volume,) = one.front.shelf
    np.testing.assert_array_equal(volume_files.load(volume.folder, "x").array, ball())
    left = [path for path in one.root.rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == [".lock", "array.npy", "volume.json"]
    assert not any(b"Miller" in path.read_bytes() for path in left)


def test_the_same_content_is_not_sent_twice(one: World) -> None:
    data = nifti(ball())
    first = one.upload(data)
    reply = one.announce(data, "another_name.nii.gz")
    assert (reply.status_code, reply.json()) == (200, first.json())


def test_a_volume_can_be_removed_and_the_engines_forget_it(one: World) -> None:
    volume_id = one.volume()
    (volume,) = one.front.shelf
    assert one.client.delete(f"/v1/volumes/{volume_id}").status_code == 204
    assert one.engines.dropped == [[volume.folder]]
    assert not volume.folder.exists()
    assert one.ask(volume_id, "liver").json()["code"] == "volume"


def test_a_volume_that_a_job_needs_stays(one: World) -> None:
    volume_id = one.volume()
    job = one.ask(volume_id, "liver").json()["job_id"]
    reply = one.client.delete(f"/v1/volumes/{volume_id}")
    assert (reply.status_code, reply.json()["code"]) == (409, "in_use")
    one.engines.finish(job)
    one.wait(job)
    assert one.client.delete(f"/v1/volumes/{volume_id}").status_code == 204


def test_of_a_file_that_cannot_be_read_nothing_stays(one: World) -> None:
    reply = one.upload(nifti(np.full((2, 2, 2), np.nan, np.float32)))
    assert (reply.status_code, reply.json()["code"]) == (422, "input")
    assert "NaN" in reply.json()["message"]
    assert one.client.get("/v1/volumes").json() == []
    assert list(one.front.uploads) == []
    assert [path.name for path in one.front.spool.folder.iterdir()] == [".lock"]


@pytest.mark.parametrize("query", ["series=0", "series=x", "frame=-1", "series=99999999999999999999"])
def test_a_choice_that_is_none_is_refused(one: World, query: str) -> None:
    reply = one.client.post(f"/v1/uploads/x/complete?{query}")
    assert (reply.status_code, reply.json()["code"]) == (422, "request")


def test_a_frame_of_a_film_is_a_volume_of_its_own(one: World) -> None:
    import SimpleITK

    film = np.stack([ball(), ball() + 1])
    path = one.root / "film.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(film, isVector=False), str(path))
    data = path.read_bytes()
    assert one.upload(data).json()["code"] == "frame"
    (upload,) = one.front.uploads
    reply = one.client.post(f"/v1/uploads/{upload.upload_id}/complete?frame=1")
    assert reply.status_code == 200
    (volume,) = one.front.shelf
    assert volume_files.load(volume.folder, "x").array.max() == 101


def test_an_archive_of_two_series_asks_which_and_then_is_one(one: World) -> None:
    data = zipped(dicom_files(one.root, 1) | dicom_files(one.root, 2, 4))
    reply = one.upload(data, "study.zip")
    assert (reply.status_code, reply.json()["code"]) == (422, "series")
    assert [entry["n_slices"] for entry in reply.json()["series"]] == [3, 4]
    (upload,) = one.front.uploads
    volume = one.client.post(f"/v1/uploads/{upload.upload_id}/complete?series=2").json()
    assert (volume["shape_kji"], volume["modality"], len(volume["series"])) == ([4, 6, 5], "CT", 2)
    assert "ecret" not in reply.text + str(volume)


def test_samples_are_volumes_too(one: World) -> None:
    (sample,) = one.client.get("/v1/samples").json()
    reply = one.client.post(f"/v1/samples/{sample['name']}")
    assert reply.json()["shape_kji"] == [20, 256, 256]
    assert one.client.post(f"/v1/samples/{sample['name']}").json() == reply.json()
    file = one.client.get(f"/v1/samples/{sample['name']}/file")
    assert file.content == resource("samples", "ct_upper_abdomen.nii.gz").read_bytes()
    assert hashlib.sha256(file.content).hexdigest() not in reply.text


@pytest.mark.parametrize("name", ["nothing", "..%2f..%2fLICENSE.txt", "ct_upper_abdomen.nii.gz", "README.md"])
def test_no_other_file_is_a_sample(one: World, name: str) -> None:
    for reply in (one.client.post(f"/v1/samples/{name}"), one.client.get(f"/v1/samples/{name}/file")):
        assert reply.status_code == 404


def test_features_are_forgotten_on_request(one: World) -> None:
    assert one.client.delete("/v1/features").json() == {"freed_bytes": 1000}
    assert one.engines.dropped == [None]


def test_with_tokens_each_forgets_their_own(tmp_path: Path) -> None:
    with world(tmp_path, tokens=TOKENS) as guarded:
        guarded.volume(**bearer(SECRET))
        (volume,) = guarded.front.shelf
        for secret, dropped in ((SECRET, [volume.folder]), (OTHER_SECRET, [])):
            guarded.client.delete("/v1/features", headers=bearer(secret))
            assert guarded.engines.dropped[-1] == dropped


def test_what_nobody_uses_is_removed_by_a_clock_that_cannot_be_moved(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume_id = one.volume()
    one.announce(b"x", "x.nrrd")
    job = one.ask(volume_id, "liver").json()["job_id"]
    now, idle = time.monotonic(), one.front.settings.idle_s
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clock on the wall goes back to 1970
    one.front.tidy(now + idle - 10)
    assert len(list(one.front.uploads)) == len(list(one.front.shelf)) == 1
    one.front.tidy(now + idle + 60)
    assert list(one.front.uploads) == []
    assert len(list(one.front.shelf)) == 1, "a job needs it"
    one.engines.finish(job)
    one.wait(job)
    one.front.tidy(time.monotonic() + idle + 60)
    assert list(one.front.shelf) == list(one.front.jobs) == []
    assert [path.name for path in one.front.spool.folder.iterdir()] == [".lock"]


def test_nothing_stays_when_the_server_ends(tmp_path: Path) -> None:
    with world(tmp_path) as running:
        running.volume()
        running.announce(b"x", "x.nrrd")
        engines = running.engines
        assert list((tmp_path / "spool").glob("session-*/*/*"))
    assert list((tmp_path / "spool").iterdir()) == []
    assert engines.is_stopped


def test_with_real_children_a_volume_is_decoded_and_a_bomb_is_not(tmp_path: Path) -> None:
    with world(tmp_path, real_children=True, voxels=100) as running:
        reply = running.upload(nifti(ball()))
        assert (reply.status_code, reply.json()["code"]) == (413, "too_large")
        assert running.upload(nifti(ball()[:2, :5, :5])).status_code == 200
        assert running.client.get("/health").status_code == 200
