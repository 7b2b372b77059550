"""``medsam3 segment`` from a DICOM folder to a DICOM object: by suffix, sent where asked, and truthful when empty."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from MedicalSAM3Lib import cli, dicom_send, registry
from Testing.lib.file_worlds import write_dicom
from Testing.lib.small_world import ball_hu, save_small_model, write_image

Call = Callable[..., tuple[int, str, str]]
URL = "https://archive.example/dicom-web"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for k, pixels in enumerate(ball_hu()):
        place = {"ImagePositionPatient": [0, 0, k], "PixelSpacing": [1, 1], "FrameOfReferenceUID": "1.2.3.9"}
        write_dicom(tmp_path / "in" / str(k), pixels.astype(np.int16), **place)
    return tmp_path / "in"


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize(("name", "modality"), [("out.seg.dcm", "SEG"), ("out.rtstruct.dcm", "RTSTRUCT")])
def test_the_suffix_names_the_object(
    call: Call, folder: Path, tmp_path: Path, model: Path, name: str, modality: str
) -> None:
    out, report = tmp_path / name, tmp_path / "report.json"
    code, told, err = call(
        "segment", folder, "-c", "ball", "-o", out, "-m", model, "--presence-threshold", 0, "--report", report
    )
    assert (code, err) == (0, "")
    assert f"Wrote{out}" in "".join(told.split())
    data = pydicom.dcmread(out)
    assert (data.Modality, data.PatientID) == (modality, "secret-id")
    made = json.loads(report.read_text())["model"]
    assert f"{made['name']} {made['weights_hash'][:12]}" in str(data)
    assert "secret" not in told + report.read_text()


def test_it_is_sent_once_it_is_written(
    call: Call, folder: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(dicom_send, "send", lambda path, url: sent.append((pydicom.dcmread(path).Modality, url)))
    out = tmp_path / "out.seg.dcm"
    code, told, _ = call(
        "segment", folder, "-c", "ball", "-o", out, "-m", model, "--presence-threshold", 0, "--send", URL
    )
    assert code == 0
    assert sent == [("SEG", URL)]
    assert "Sent out.seg.dcm to the archive." in told


def test_nothing_found_is_an_answer_and_leaves_no_older_file(
    call: Call, folder: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_send, "send", lambda *_: pytest.fail("sent what is not there"))
    out, report = tmp_path / "out.seg.dcm", tmp_path / "report.json"
    out.write_text("of an earlier run")
    code, told, err = call(
        "segment", folder, "-c", "ball", "-o", out, "-m", model, "--presence-threshold", 1, "--report", report,
        "--send", URL,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "Nothing was found, and a DICOM object cannot be empty" in " ".join(told.split())
    assert not out.exists()
    assert json.loads(report.read_text())["findings"][0]["state"] == "not_found"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-o", "out.seg.nrrd", "--send", URL], "send: expected a DICOM result to send"),
        (["--send", URL], "send: expected a DICOM result to send"),
        (["-o", "out.dcm", "--send", "archive"], "send: expected the address of a DICOMweb service"),
        (["-o", "out.dcm"], "Expected a DICOM series as input"),
    ],
)
def test_what_cannot_come_out_is_refused_before_the_model_is_loaded(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    code, _, err = call("segment", write_image(tmp_path / "ball.nii.gz", ball_hu()), "-c", "ball", *options)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


@pytest.fixture
def tilted(tmp_path: Path) -> Path:
    (tmp_path / "tilted").mkdir()
    for k, pixels in enumerate(ball_hu()):
        place = {"ImagePositionPatient": [0, 0.2 * k, k], "PixelSpacing": [1, 1], "FrameOfReferenceUID": "1.2.3.9"}
        write_dicom(tmp_path / "tilted" / str(k), pixels.astype(np.int16), **place)
    return tmp_path / "tilted"


def test_a_gantry_tilt_is_segmented_where_the_result_lies_on_its_slices(
    call: Call, tilted: Path, tmp_path: Path, model: Path
) -> None:
    out = tmp_path / "out.seg.dcm"
    code, told, err = call("segment", tilted, "-c", "ball", "-o", out, "-m", model, "--presence-threshold", 0)
    assert (code, err) == (0, "")
    assert "tilted by 11.31 degrees (a gantry tilt): each was looked at as it is." in " ".join(told.split())
    frames = pydicom.dcmread(out).PerFrameFunctionalGroupsSequence
    places = [own.PlanePositionSequence[0].ImagePositionPatient for own in frames]
    assert all(abs(y - 0.2 * z) < 1e-6 for _, y, z in places)


@pytest.mark.parametrize("options", [["-o", "out.seg.nrrd"], ["-o", "out.seg.dcm", "--confidence", "sure.nii.gz"]])
def test_a_gantry_tilt_is_refused_where_something_else_is_written_too(
    call: Call, tilted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    code, _, err = call("segment", tilted, "-c", "ball", *options)
    assert code == 2
    assert "(a gantry tilt); write the result as DICOM" in err
