"""The spool: private, bounded, and gone when its server is; the journal says what was not done."""

from __future__ import annotations

import errno
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.journal import Entry, Journal, unfinished
from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.spool import RESERVE_BYTES, Spool, full_disk_refused

MB = 1 << 20


def test_folders_are_private(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", MB)
    for folder in (tmp_path / "spool", spool.folder, spool.new_folder("volume")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    spool.write(spool.folder / "file", 0, b"x")
    assert stat.S_IMODE((spool.folder / "file").stat().st_mode) == 0o600
    spool.close()


def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    spool.write(spool.new_folder("volume") / "array.npy", 0, b"patient")
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path; import os
from MedicalSAM3Lib.spool import Spool
from MedicalSAM3Lib.journal import Entry, Journal
spool = Spool(Path({str(tmp_path)!r}), 1 << 20)
spool.write(spool.new_folder("volume") / "array.npy", 0, b"patient")
Journal(spool.journal).begin(Entry("job", "segment", "ward", "2026"))
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert len(list(tmp_path.glob("session-*/volume-*/array.npy"))) == 1
    spool = Spool(tmp_path, MB)
    assert list(tmp_path.iterdir()) == [spool.folder]
    assert unfinished(spool.left_behind) == [Entry("job", "segment", "ward", "2026")]
    spool.close()


def test_the_folder_of_a_server_that_lives_is_left_alone(tmp_path: Path) -> None:
    first = Spool(tmp_path, MB)
    kept = first.new_folder("volume")
    second = Spool(tmp_path, MB)
    assert kept.is_dir()
    assert second.left_behind == []
    first.close()
    second.close()


def test_writing_at_a_place_leaves_the_rest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    file = spool.folder / "file"
    spool.write(file, 0, b"abcdef")
    spool.write(file, 2, b"XY")
    assert file.read_bytes() == b"abXYef"
    spool.close()


def test_more_than_may_be_taken_is_refused_before_it_is_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    folder = spool.new_folder("upload", 60)
    with pytest.raises(Refused) as refused:
        spool.new_folder("upload", 41)
    assert (refused.value.status, refused.value.code) == (507, "disk_full")
    spool.remove(folder)
    spool.promise(spool.new_folder("upload", 41), 100)
    assert spool.promised_bytes == 100
    spool.close()


def test_a_disk_that_is_nearly_full_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 1 << 40)
    monkeypatch.setattr(spool, "free_bytes", lambda: RESERVE_BYTES + 10)
    spool.new_folder("upload", 10)
    with pytest.raises(Refused, match="room"):
        spool.new_folder("upload", 11)
    spool.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_refusal_and_other_faults_are_not(number: int) -> None:
    with pytest.raises(Refused, match="room"), full_disk_refused():
        raise OSError(number, "full")
    with pytest.raises(OSError, match="broken"), full_disk_refused():
        raise OSError(errno.EIO, "broken")


def test_a_folder_that_is_no_place_for_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="Expected a folder"):
            Spool(tmp_path / name, MB)


def test_a_journal_forgets_what_has_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert not journal.has_open
    first, second = (Entry(name, "segment", "ward", "2026") for name in ("one", "two"))
    journal.begin(first)
    journal.begin(second)
    journal.end("one")
    journal.end("one")
    journal.end("unknown")
    lines = (tmp_path / "journal").read_text().splitlines()
    assert unfinished(lines) == [second]
    assert journal.has_open
    assert unfinished([*lines, '{"job_id": "thr', "[]", "{}"]) == [second]
    assert unfinished([]) == []
    journal.end("two")
    assert not journal.has_open
    assert not (tmp_path / "journal").exists()
