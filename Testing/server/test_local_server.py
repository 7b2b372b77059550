"""The life of a local server: one at a time, found by a private file, gone with its parent or when nobody uses it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from MedicalSAM3Lib import local_server
from MedicalSAM3Lib.errors import OutputError, SettingsError
from MedicalSAM3Lib.local_server import Idleness, only_one, parent_watch, publish, read_connection

POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions and signals of POSIX")


def test_a_server_is_found_by_its_file_which_goes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "local.json"
    with only_one(file):
        assert read_connection(file) is None, "it is not there before the server answers"
        publish(file, "http://127.0.0.1:1", "secret")
        found = read_connection(file)
        assert found is not None
        assert (found.url, found.token, found.pid) == ("http://127.0.0.1:1", "secret", os.getpid())
    assert not file.exists()


@POSIX
def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    os.umask(before := os.umask(0))
    try:
        publish(tmp_path / "local.json", "http://127.0.0.1:1", "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "local.json").stat().st_mode) == 0o600


def test_a_second_server_is_refused_also_of_another_process(tmp_path: Path, repository: Path) -> None:
    file = tmp_path / "local.json"
    script = (
        "import sys\nfrom pathlib import Path\nfrom MedicalSAM3Lib.local_server import only_one\n"
        "with only_one(Path(sys.argv[1])): pass"
    )
    with only_one(file):
        with pytest.raises(SettingsError, match="already"), only_one(file):
            pass
        other = subprocess.run(
            [sys.executable, "-c", script, str(file)], cwd=repository, capture_output=True, text=True, check=False
        )
        assert "runs already" in other.stderr
        publish(file, "http://127.0.0.1:1", "secret")
        assert file.exists(), "who was refused takes nothing away"
    with only_one(file):
        pass


def test_a_file_that_a_killed_server_left_does_not_stop_the_next(tmp_path: Path) -> None:
    publish(tmp_path / "local.json", "http://127.0.0.1:1", "old")
    with only_one(tmp_path / "local.json"):
        assert read_connection(tmp_path / "local.json") is None, "nobody must take the old one for the new one"
        publish(tmp_path / "local.json", "http://127.0.0.1:2", "new")
        found = read_connection(tmp_path / "local.json")
        assert found is not None
        assert found.token == "new"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": "x"}'])
def test_half_a_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "local.json").write_text(text)
    assert read_connection(tmp_path / "local.json") is None


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), only_one(tmp_path / "file" / "local.json"):
        pass


@POSIX
def test_the_end_of_a_named_parent_is_noticed() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        is_there = parent_watch(parent.pid)
        assert is_there()
        parent.communicate()
    assert not is_there()


@POSIX
def test_the_starter_is_the_parent_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    is_there = parent_watch(None)
    assert is_there()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not is_there()


@POSIX
def test_another_process_of_the_same_number_is_not_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    is_there = parent_watch(os.getpid())
    assert is_there()
    monkeypatch.setattr(local_server, "_birth", lambda pid: "later")
    assert not is_there()


@POSIX
def test_a_parent_that_is_not_there_is_refused() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with pytest.raises(SettingsError, match="parent"):
        parent_watch(ended.pid)


def test_idleness_counts_only_while_nobody_uses_the_server() -> None:
    idle = Idleness(2)
    assert not idle.tick(busy=False)
    with idle.use():
        assert not any(idle.tick(busy=False) for _ in range(5))
    assert not idle.tick(busy=False)
    assert not idle.tick(busy=True)
    assert not idle.tick(busy=False)
    assert idle.tick(busy=False)


@POSIX
def test_a_process_without_streams_gets_some(repository: Path, tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from MedicalSAM3Lib.local_server import open_missing_streams\n"
        "open_missing_streams()\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "print('into nothing'); print('the same', file=sys.stderr); sys.stdin.read()\n"
        "os.write(file, str(file).encode())\n"
    )
    target = tmp_path / "number"
    command = ["sh", "-c", 'exec "$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, script, str(target)]
    assert subprocess.run(command, cwd=repository, check=False).returncode == 0
    assert target.read_text() == "3"
