"""Atomic writing: a file appears whole or not at all, and what was there stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from MedicalSAM3Lib.atomic import check_writable, replacing
from MedicalSAM3Lib.errors import Cancelled, OutputError


def test_files_get_their_names_at_the_end(tmp_path: Path) -> None:
    targets = tmp_path / "a.nii.gz", tmp_path / "a.labels.json"
    with replacing(*targets) as partial:
        assert [path.name.split(".", 2)[2] for path in partial] == ["nii.gz", "labels.json"]
        for path in partial:
            assert path.parent == tmp_path
            path.write_text("new")
        assert not any(target.exists() for target in targets)
    assert sorted(tmp_path.iterdir()) == sorted(targets)


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (OSError(28, "No space left on device"), OutputError, "no space left on device; check the folder"),
        (RuntimeError("C++ trace\nof many lines"), OutputError, "the writer failed"),
        (Cancelled("stop"), Cancelled, "stop"),
    ],
)
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: Exception, raised: type[Exception], says: str) -> None:
    target = tmp_path / "a.png"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as (partial,):
            partial.write_text("half")
            raise error

    with pytest.raises(raised, match=says) as caught:
        fail()
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_text() == "old"


def test_a_missing_temporary_file_replaces_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file"), replacing(tmp_path / "a.png"):
        pass
    assert not list(tmp_path.iterdir())


def test_where_a_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "A.PNG", (".png",))
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder.png").mkdir()
    for path, says in (
        (tmp_path / "a.jpg", "ends in .png, got a.jpg"),
        (tmp_path / "folder.png", "a folder of that name"),
        (tmp_path / "missing" / "a.png", "a folder that exists"),
    ):
        with pytest.raises(OutputError, match=says):
            check_writable(path, (".png",))

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="a folder that can be written to"):
        check_writable(tmp_path / "a.png", (".png",))
