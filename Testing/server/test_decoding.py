"""What strangers send is decoded in a process that may die, within limits that hold before anything is allocated."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedicalSAM3Lib import children, volume_files
from MedicalSAM3Lib.archives import expands_within, unpack
from MedicalSAM3Lib.decoding import DecodeLimits, decode
from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error, SeriesNeeded, TooLarge
from MedicalSAM3Lib.guards import Allowance
from MedicalSAM3Lib.refusals import Refused
from Testing.lib.file_worlds import write_dicom
from Testing.server.server_world import ball, nifti, png

LIMITS = DecodeLimits(voxels=10_000, expansion_ratio=100, memory_bytes=2 << 30, cpu_s=30, file_bytes=1 << 20)


ALWAYS = 1 << 20
"""Bytes that a file may always expand to, in these tests."""


@pytest.fixture(autouse=True)
def small_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MedicalSAM3Lib.guards.ALWAYS_EXPANDS_TO", ALWAYS)


def decoded(folder: Path, name: str, data: bytes, limits: DecodeLimits = LIMITS) -> Any:
    """The volume that a file becomes, decoded in this process."""
    file, out = folder / name, folder / "out"
    file.write_bytes(data)
    out.mkdir()
    decode(file, out, limits, [])
    assert sorted(path.name for path in out.iterdir()) == ["array.npy", "volume.json"]
    return volume_files.load(out, "id")


def zipped(files: dict[str, bytes], **options: Any) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, **options) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return archive.getvalue()


def nrrd(sizes: str, data: bytes = b"", encoding: str = "raw") -> bytes:
    head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: {encoding}\n\n"
    return head.encode() + data


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_volume_is_decoded_with_its_geometry(tmp_path: Path, suffix: str) -> None:
    volume = decoded(tmp_path, f"file{suffix}", nifti(ball(), suffix))
    np.testing.assert_array_equal(volume.array, ball())
    np.testing.assert_allclose(volume.spacing_mm, (1, 2, 3))
    assert (volume.name, volume.is_2d) == ("id", False)


def test_a_picture_is_decoded(tmp_path: Path) -> None:
    volume = decoded(tmp_path, "file.png", png(np.full((5, 7, 3), 9, np.uint8)))
    assert (volume.array.shape, volume.modality, volume.is_2d) == ((1, 5, 7, 3), "RGB", True)


def test_an_archive_of_one_image_is_that_image(tmp_path: Path) -> None:
    files = {"a/b/../../../x.nii.gz": nifti(ball()), "__MACOSX/x.nii.gz": b"y", ".hidden": b"z", "folder/": b""}
    np.testing.assert_array_equal(decoded(tmp_path, "file.zip", zipped(files)).array, ball())


def dicom_files(folder: Path, series: int, count: int = 3) -> dict[str, bytes]:
    made = folder / f"series{series}"
    made.mkdir()
    for k in range(count):
        values = {"SeriesNumber": series, "SeriesInstanceUID": f"1.2.{series}", "ImagePositionPatient": [0, 0, 2 * k]}
        write_dicom(made / f"{k}", np.full((6, 5), 10 * series + k, np.int16), **values)
    return {f"{series}/{path.name}": path.read_bytes() for path in made.iterdir()}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.nrrd", nrrd("100000 100000 100000")),
        ("x.nrrd", nrrd("101 100 1", bytes(20200))),
        ("x.nii", nifti(ball(), ".nii")[:42] + struct.pack("<hhh", 30000, 30000, 30000) + nifti(ball(), ".nii")[48:]),
        ("x.png", png(np.zeros((101, 100), np.uint8))),
        ("x.zip", zipped({"a.nrrd": nrrd("100000 100000 100000")})),
    ],
)
def test_more_voxels_than_allowed_are_refused_before_they_are_allocated(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(TooLarge):
        decoded(tmp_path, name, data)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_gzip_bomb_is_refused_by_what_comes_out_of_it(tmp_path: Path) -> None:
    bomb = gzip.compress(nifti(ball(), ".nii") + bytes(ALWAYS + 1000), 9)
    for name, data in (("x.nii.gz", bomb), ("x.zip", zipped({"x.nii.gz": bomb}))):
        with pytest.raises(TooLarge, match="expands"):
            decoded(tmp_path, name, data)
        (tmp_path / "out").rmdir()


def test_a_zip_bomb_is_refused_by_its_list_and_by_its_bytes(tmp_path: Path) -> None:
    data = zipped({"a": bytes(ALWAYS + 1)})
    with pytest.raises(TooLarge, match="expands"):
        decoded(tmp_path, "x.zip", data)
    # One whose list says less than what comes: the bytes count.
    lying = data.replace(struct.pack("<I", ALWAYS + 1), struct.pack("<I", 10))
    (tmp_path / "out").rmdir()
    with pytest.raises(InputError):
        decoded(tmp_path, "x.zip", lying)


def test_an_archive_is_bounded_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MedicalSAM3Lib.archives.MOST_FILES", 10)
    (tmp_path / "x.zip").write_bytes(zipped({str(number): b"" for number in range(11)}))
    (tmp_path / "out").mkdir()
    with pytest.raises(TooLarge, match="files"):
        unpack(tmp_path / "x.zip", tmp_path / "out", Allowance(1, 1), ())


def test_no_name_of_an_archive_is_a_path(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = 0o120777 << 16
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name in ("../../evil.dcm", "/etc/evil.nii.gz", "C:\\evil.png", "..\\evil", "a" * 300, "ok.DCM"):
            opened.writestr(name, b"x")
        opened.writestr(link, "/etc/passwd")
    (tmp_path / "x.zip").write_bytes(archive.getvalue())
    (tmp_path / "out").mkdir()
    found = unpack(tmp_path / "x.zip", tmp_path / "out", Allowance(1, 1 << 20), (".nii.gz", ".dcm", ".png"))
    names = ["00000.dcm", "00001.nii.gz", "00002.png", "00003", "00004", "00005.dcm"]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in found] == names
    assert not list(tmp_path.parent.glob("evil*"))


def with_flag(data: bytes) -> bytes:
    """The same archive, but its list says that the file is encrypted."""
    at = data.index(b"PK\x01\x02") + 8
    local = data.index(b"PK\x03\x04") + 6
    changed = bytearray(data)
    changed[at] |= 1
    changed[local] |= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", b"no archive"),
        ("x.zip", b""),
        ("x.zip", zipped({"a.nii": nifti(ball(), ".nii")})[:-30]),
        ("x.zip", with_flag(zipped({"a.nii": nifti(ball(), ".nii")}))),
        ("x.zip", zipped({})),
        ("x.zip", zipped({"__MACOSX/x": b"x"})),
        ("x.zip", zipped({"a.txt": b"text", "b.txt": b"text"})),
        ("x.zip", zipped({"inner.zip": zipped({"a": b"b"})})),
        ("x.nii.gz", nifti(ball())[:-8]),
        ("x.nii.gz", b"no gzip"),
        ("x.nrrd", nrrd("4 4 4", b"x")),
        ("x.png", b"\x89PNG\r\n\x1a\nxxxx"),
        ("x.dcm", b"x" * 200),
        ("x.nii", nifti(np.full((2, 2, 2), np.nan, np.float32), ".nii")),
        ("x.mha", nifti(np.full((2, 2, 2), np.inf, np.float32), ".mha")),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_left(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(InputError, match="Expected"):
        decoded(tmp_path, name, data)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_of_several_series_needs_a_choice(tmp_path: Path) -> None:
    data = zipped(dicom_files(tmp_path, 1) | dicom_files(tmp_path, 2, 4))
    (tmp_path / "x.zip").write_bytes(data)
    out, series = tmp_path / "nowhere", []  # type: ignore[var-annotated]
    out.mkdir()
    with pytest.raises(SeriesNeeded, match="got 2"):
        decode(tmp_path / "x.zip", out, LIMITS, series)
    assert [(entry["index"], entry["n_slices"]) for entry in series] == [(1, 3), (2, 4)]
    volume = decoded(tmp_path, "x.zip", data, replace(LIMITS, series=2))
    assert volume.array[:, 0, 0].tolist() == [20, 21, 22, 23]
    for wrong in (3, 99):
        (tmp_path / f"out{wrong}").mkdir()
        with pytest.raises(InputError, match="Expected one DICOM series"):
            decode(tmp_path / "x.zip", tmp_path / f"out{wrong}", replace(LIMITS, series=wrong), [])


def test_a_series_of_one_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave series= out"):
        decoded(tmp_path, "x.nii", nifti(ball(), ".nii"), replace(LIMITS, series=1))


def test_a_gzip_of_several_members_is_counted_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(bytes(600)) + gzip.compress(bytes(600)))
    expands_within(file, Allowance(1, 1200))
    with pytest.raises(TooLarge):
        expands_within(file, Allowance(1, 1199))


@settings(max_examples=40)
@given(st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".zip", ".dcm"]), st.data())
def test_a_damaged_file_is_an_error_of_ours_or_a_volume(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    base = {".png": png(ball()[1].astype(np.uint8)), ".zip": zipped({"a.nii": nifti(ball(), ".nii")})}.get(suffix)
    good = bytearray(base or nifti(ball(), suffix if suffix in (".nii", ".nii.gz", ".nrrd", ".mha") else ".nii"))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    with suppress(MedicalSAM3Error):
        assert decoded(tmp_path_factory.mktemp("damaged"), f"x{suffix}", cut).array.size <= LIMITS.voxels


def run(folder: Path, data: bytes, name: str, limits: DecodeLimits = LIMITS) -> Any:
    """The answer of a real child."""
    (folder / name).write_bytes(data)
    (folder / "out").mkdir()
    arguments = [str(folder / name), str(folder / "out"), json.dumps(asdict(limits))]
    return asyncio.run(children.run_child("decoding", arguments, timeout_s=60))


def test_a_child_decodes_and_says_so(tmp_path: Path) -> None:
    assert run(tmp_path, nifti(ball()), "x.nii.gz") == {"ok": True, "notices": []}
    np.testing.assert_array_equal(volume_files.load(tmp_path / "out", "id").array, ball())


def test_a_child_that_refuses_says_why(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        run(tmp_path, nifti(np.full((2, 2, 2), np.nan, np.float32)), "x.nii.gz")
    assert (refused.value.status, refused.value.code) == (422, "input")
    assert "8 NaN" in refused.value.message
    assert str(tmp_path) not in refused.value.message


def test_a_child_has_no_more_memory_and_disk_than_it_was_given(tmp_path: Path) -> None:
    header = nifti(ball(), ".nii")[:352]
    big = header[:42] + struct.pack("<hhh", 1000, 1000, 60) + header[48:] + bytes(2 * 60_000_000)
    limits = replace(LIMITS, voxels=10**9, memory_bytes=700 << 20, expansion_ratio=10_000)
    with pytest.raises(Refused) as refused:
        run(tmp_path, big, "x.nii", limits)
    assert refused.value.code in ("too_large", "child_died", "disk_full")
    assert refused.value.status in (413, 422, 507)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("import os; os.kill(os.getpid(), 11)", "child_died"),
        ("print('no json')", "child_died"),
        ("pass", "child_died"),
        ("import time; print('{\"ok\": true}', flush=True); time.sleep(60)", "too_slow"),
    ],
)
def test_a_child_that_dies_hangs_or_babbles_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, code: str
) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -c "$SCRIPT"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("SCRIPT", script)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Refused) as refused:
        asyncio.run(children.run_child("decoding", [], timeout_s=1.0))
    assert refused.value.code == code


def test_a_child_ends_with_the_request_that_needed_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "python").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    async def scenario() -> None:
        task = asyncio.create_task(children.run_child("decoding", [], timeout_s=60))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    begin = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - begin < 50
    pid = (tmp_path / "pid").read_text().strip()
    assert subprocess.run(["kill", "-0", pid], check=False, capture_output=True).returncode != 0


def test_a_child_does_not_know_the_servers_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM3_SERVER_TOKEN", "secret")
    environment = children._environment()
    assert "MEDSAM3_SERVER_TOKEN" not in environment
    assert environment["OMP_NUM_THREADS"] == "1"
