"""Every input that cannot be used ends in exit code 2 or 3, one line that says why, and no file."""

from __future__ import annotations

import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from MedicalSAM3Lib import cli
from Testing.lib.file_worlds import write_series
from Testing.lib.small_world import ball_hu, save_small_model, write_image

Make = Callable[[Path], Path]
Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Call the program in an empty folder; check that it refuses in one line and leaves nothing behind."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")

    def run(*words: object) -> tuple[int, str]:
        capfd.readouterr()
        code = cli.main(["segment", "-q", *(str(word) for word in words)])
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("medsam3: ")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        assert len(err) < 500, "one line that can be read"
        assert list((tmp_path / "out").rglob("*")) == []
        return code, err

    return run


def missing(folder: Path) -> Path:
    return folder / "gone.nii.gz"


def empty(folder: Path) -> Path:
    (folder / "empty.nii.gz").touch()
    return folder / "empty.nii.gz"


def truncated(folder: Path) -> Path:
    path = write_image(folder / "whole.nii", ball_hu())
    (folder / "half.nii").write_bytes(path.read_bytes()[:20_000])
    return folder / "half.nii"


def truncated_gzip(folder: Path) -> Path:
    path = write_image(folder / "whole.nii.gz", ball_hu())
    (folder / "half.nii.gz").write_bytes(path.read_bytes()[:200])
    return folder / "half.nii.gz"


def truncated_nrrd(folder: Path) -> Path:
    path = write_image(folder / "whole.nrrd", ball_hu())
    (folder / "half.nrrd").write_bytes(path.read_bytes()[:-400])
    return folder / "half.nrrd"


def promises_too_much(folder: Path) -> Path:
    """A NIfTI header of 30,000 voxels a side (int16: offset 40 of the header) and no voxels to go with it."""
    path = write_image(folder / "huge.nii", ball_hu())
    data = bytearray(path.read_bytes())
    struct.pack_into("<8h", data, 40, 3, 30_000, 30_000, 30_000, 1, 1, 1, 1)
    path.write_bytes(data)
    return path


def folder_without_dicom(folder: Path) -> Path:
    (folder / "study").mkdir()
    (folder / "study" / "notes.txt").write_text("nothing to see", encoding="utf-8")
    return folder / "study"


def four_d(folder: Path) -> Path:
    return write_image(folder / "4d.nii.gz", np.stack([ball_hu()] * 3))


def with_nan(folder: Path) -> Path:
    array = ball_hu()
    array[2, 5, 5] = np.nan
    return write_image(folder / "nan.nii.gz", array)


def with_infinity(folder: Path) -> Path:
    array = ball_hu()
    array[2, 5, 5] = np.inf
    return write_image(folder / "inf.mha", array)


def enormous_photograph(folder: Path) -> Path:
    from PIL import Image

    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    return folder / "huge.png"


def no_image(folder: Path) -> Path:
    (folder / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 9)
    return folder / "photo.png"


def other_file(folder: Path) -> Path:
    (folder / "letter.docx").write_bytes(b"PK")
    return folder / "letter.docx"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (missing, "does not exist"),
        (empty, "empty"),
        (truncated, "truncated"),
        (truncated_gzip, "truncated"),
        (truncated_nrrd, "truncated"),
        (promises_too_much, "memory"),
        (folder_without_dicom, "none is one"),
        (four_d, "--frame"),
        (with_nan, "1 NaN"),
        (with_infinity, "1 infinite"),
        (enormous_photograph, "100 megapixels"),
        (no_image, "photo.png"),
        (other_file, ".nii.gz"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(
    tmp_path: Path, model: Path, refused: Call, make: Make, said: str
) -> None:
    code, err = refused(make(tmp_path), "-c", "liver", "--model", model)
    assert code == 2
    assert said in err


def test_a_folder_of_mixed_series_lists_them(tmp_path: Path, model: Path, refused: Call) -> None:
    folder = tmp_path / "study"
    for number in (2, 7):
        write_series(folder, [0.0, 2.0, 4.0], SeriesNumber=number, SeriesInstanceUID=f"1.2.{number}")
    code, err = refused(folder, "-c", "liver", "--model", model)
    assert code == 2
    assert "--series" in err
    assert "secret" not in err.lower()
    assert cli.main(["segment", "-q", str(folder), "-c", "liver", "--model", str(model), "--series", "7"]) == 0


def test_a_frame_of_a_4d_volume_can_be_picked(tmp_path: Path, model: Path, refused: Call) -> None:
    path = four_d(tmp_path)
    assert cli.main(["segment", "-q", str(path), "-c", "liver", "--model", str(model), "--frame", "2"]) == 0
    Path("4d.seg.nrrd").unlink()
    code, err = refused(path, "-c", "liver", "--model", model, "--frame", "3")
    assert code == 2
    assert "0 to 2" in err


@pytest.mark.parametrize("shape", [(6, 40, 40), (1, 1, 1)])
def test_a_constant_image_and_a_single_voxel_are_answered(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "flat.nii.gz", np.full(shape, 40.0, np.float32))
    assert cli.main(["segment", "flat.nii.gz", "-c", "liver", "--model", str(model), "-o", "a.seg.nrrd"]) == 0


@pytest.mark.parametrize(
    ("concept", "said"),
    [("", "empty"), ("  \t ", "empty"), ("liver " * 1_700, "32 tokens"), ("x" * 10_000, "32 tokens")],
)
def test_a_concept_that_cannot_be_encoded_is_refused_not_cut(
    tmp_path: Path, model: Path, refused: Call, concept: str, said: str
) -> None:
    image = write_image(tmp_path / "ball.nii.gz", ball_hu())
    code, err = refused(image, "-c", concept, "--model", model)
    assert code == 2
    assert said in err


def test_a_concept_asked_for_twice_and_a_device_that_is_not_there_are_refused(
    tmp_path: Path, model: Path, refused: Call
) -> None:
    image = write_image(tmp_path / "ball.nii.gz", ball_hu())
    for words, said in ((["-c", "Liver"], "same concept"), (["--device", "cuda:99"], "cuda:99")):
        code, err = refused(image, "-c", "liver", *words, "--model", model)
        assert code == 2
        assert said in err


def test_an_output_folder_that_is_missing_or_a_file_is_refused(tmp_path: Path, model: Path, refused: Call) -> None:
    image = write_image(tmp_path / "ball.nii.gz", ball_hu())
    (tmp_path / "file").touch()
    for parent in (tmp_path / "missing", tmp_path / "file"):
        code, err = refused(image, "-c", "liver", "--model", model, "-o", parent / "a.seg.nrrd")
        assert code == 2
        assert parent.name in err


def test_an_output_folder_that_cannot_be_written_to_is_refused(
    tmp_path: Path, model: Path, refused: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who may write anywhere: so the file system says no by itself."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    image = write_image(tmp_path / "ball.nii.gz", ball_hu())
    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    code, err = refused(image, "-c", "liver", "--model", model, "-o", "a.seg.nrrd")
    assert code == 2
    assert "written" in err


@pytest.mark.parametrize("failing", ["result", "report", "preview"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], failing: str
) -> None:
    import os

    image = write_image(tmp_path / "ball.nii.gz", ball_hu())
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    real = os.replace

    def full(source: object, target: object) -> None:
        if failing in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full)
    names = ["-o", "result.seg.nrrd", "--report", "report.json", "--preview", "preview.png"]
    code = cli.main(["segment", "-q", str(image), "-c", "liver", "--model", str(model), *names])
    err = capfd.readouterr().err
    assert code in (2, 3)
    assert err.count("\n") == 1, err
    assert "no space left" in err.lower()
    whole = {"result": [], "report": ["result.seg.nrrd"], "preview": ["report.json", "result.seg.nrrd"]}
    assert sorted(path.name for path in Path().iterdir()) == whole[failing]


class Malicious:
    """A pickle that would run code when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("owned"),)  # type: ignore[return-value]


def pickle_of_something_else(folder: Path, _: Path) -> Path:
    (folder / "sam3.pt").write_bytes(pickle.dumps({"model": Malicious()}))
    return folder / "sam3.pt"


def torch_file_of_something_else(folder: Path, _: Path) -> Path:
    import torch

    torch.save({"epoch": 3}, folder / "sam3.pt")
    return folder / "sam3.pt"


def rewritten(folder: Path, model: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """A copy of the model whose tensors were changed and whose checksums are right."""
    from safetensors.numpy import load_file, save_file

    from MedicalSAM3Lib.model_folder import WEIGHTS_FILE, write_sums

    copy = Path(shutil.copytree(model, folder / "changed"))
    tensors = load_file(copy / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, copy / WEIGHTS_FILE, metadata={"format": "pt"})
    write_sums(copy)
    return copy


def key_too_many(folder: Path, model: Path) -> Path:
    return rewritten(folder, model, lambda tensors: tensors.update(surplus=np.zeros(1, np.float16)))


def key_too_few(folder: Path, model: Path) -> Path:
    return rewritten(folder, model, lambda tensors: tensors.pop("detector_model.text_projection.weight"))


def damaged(folder: Path, model: Path) -> Path:
    copy = Path(shutil.copytree(model, folder / "damaged"))
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    return copy


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (pickle_of_something_else, "sam3.pt"),
        (torch_file_of_something_else, "sam3.pt"),
        (key_too_many, "surplus"),
        (key_too_few, "detector_model.text_projection.weight"),
        (damaged, "model.safetensors"),
    ],
)
def test_a_checkpoint_that_is_not_what_it_claims_is_refused_by_name(
    tmp_path: Path, model: Path, refused: Call, make: Callable[[Path, Path], Path], said: str
) -> None:
    image = write_image(tmp_path / "ball.nii.gz", ball_hu())
    code, err = refused(image, "-c", "liver", "--model", make(tmp_path, model))
    assert code == 3
    assert said in err


def test_a_model_that_nobody_knows_is_a_wrong_call(tmp_path: Path, refused: Call) -> None:
    image = write_image(tmp_path / "ball.nii.gz", ball_hu())
    code, err = refused(image, "-c", "liver", "--model", tmp_path / "no-such-model")
    assert code == 2
    assert "no-such-model" in err
