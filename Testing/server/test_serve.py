"""``medsam3 serve`` as a process: how it is found, how it ends, and what it leaves behind, which is nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from MedicalSAM3Lib import cli
from MedicalSAM3Lib.local_server import read_connection
from MedicalSAM3Lib.server_settings import ServerSettings
from Testing.server.live import REPOSITORY, children, environment, live, runs, wait_until
from Testing.server.live import cli as run_cli

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks the system for processes")

NO_MODEL = "no-such-model"
"""Its engines are there and cannot do anything, which is all that these tests need."""


def nothing_left(folder: Path, *pids: int) -> bool:
    spool = folder / "spool"
    is_clean = not spool.is_dir() or not any(spool.iterdir())
    return is_clean and not (folder / "connection.json").exists() and not any(runs(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("these tests run under nohup or the like, and what they start ignores the signal, as it should")
    with live(tmp_path, model=NO_MODEL) as server:
        pids = [server.process.pid, *server.engines()]
        assert len(pids) == 2
        server.process.send_signal(number)
        assert server.process.wait(120) == 0
        assert nothing_left(tmp_path, *pids)


def test_a_second_one_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with live(tmp_path, model=NO_MODEL) as server:
        again = run_cli("serve", "--local", "--connection-file", server.file, "-m", NO_MODEL)
        assert again.returncode == 2
        assert "runs already" in again.stderr
        assert server.client().health()["status"] in ("ok", "warming")
        found = read_connection(server.file)
        assert found is not None
        assert found.pid == server.process.pid


def test_it_ends_with_a_parent_that_was_killed_and_takes_its_engines_along(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).wait()\n"
    )
    file = tmp_path / "connection.json"
    serve = [sys.executable, "-m", "MedicalSAM3Lib.cli", "serve", "--local", "--connection-file", str(file)]
    serve += ["--devices", "cpu", "-m", NO_MODEL, "--set", f"spool={tmp_path / 'spool'}"]
    parent = subprocess.Popen([sys.executable, "-c", script, *serve], cwd=REPOSITORY, env=environment())
    with parent:
        wait_until(lambda: read_connection(file) is not None)
        found = read_connection(file)
        assert found is not None
        pids = [found.pid, *children(found.pid)]
        assert len(pids) == 2
        parent.kill()
    wait_until(lambda: nothing_left(tmp_path, *pids))


def test_engines_end_with_a_server_that_was_killed_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    with live(tmp_path, model=NO_MODEL) as server:
        engines = server.engines()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(runs(pid) for pid in engines))
    assert any((tmp_path / "spool").iterdir()), "nobody was there to remove it"
    with live(tmp_path, model=NO_MODEL) as server:
        server.process.terminate()
        server.process.wait()
    assert nothing_left(tmp_path)


def test_it_ends_when_nobody_uses_it(tmp_path: Path) -> None:
    with live(tmp_path, "--idle", "1", model=NO_MODEL) as server:
        assert server.process.wait() == 0
        assert nothing_left(tmp_path)


def test_it_starts_without_a_terminal_and_without_streams(tmp_path: Path) -> None:
    file = tmp_path / "connection.json"
    command = [sys.executable, "-m", "MedicalSAM3Lib.cli", "serve", "--local", "--connection-file", str(file)]
    command += ["--devices", "cpu", "-m", NO_MODEL, "--set", f"spool={tmp_path / 'spool'}"]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    with subprocess.Popen(closed, cwd=REPOSITORY, env=environment(), start_new_session=True) as process:
        wait_until(lambda: read_connection(file) is not None or process.poll() is not None)
        assert process.poll() is None
        process.terminate()
    assert process.returncode == 0
    assert nothing_left(tmp_path)


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_cli("serve", "--port", port, "--set", f"spool={tmp_path}", "-m", NO_MODEL)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "token"),
        (["--set", "queue"], "NAME=VALUE"),
        (["--set", "qeue=3"], "qeue"),
        (["--set", "queue=many"], "queue"),
        (["--config", "gone.toml"], "gone.toml"),
        (["--port", "0", "--set", "ray=auto"], "Ray"),
        (["--parent", "1"], "--local only"),
        (["--local", "--host", "0.0.0.0"], "--local"),
        (["--local", "--port", "80"], "--local"),
        (["--local", "--parent", "99999999"], "parent"),
    ],
)
def test_settings_that_cannot_be_are_said_before_anything_starts(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert cli.main(["serve", *words]) == 2
    assert said in capsys.readouterr().err


def test_every_flag_is_a_setting() -> None:
    from inspect import signature

    from MedicalSAM3Lib import cli_serve

    own = {"config", "more", "local", "connection_file", "parent", "idle"}
    assert set(signature(cli_serve.serve).parameters) - own <= set(ServerSettings.model_fields)


def test_a_server_whose_file_cannot_be_written_does_not_stay(tmp_path: Path) -> None:
    file = tmp_path / "connection.json"
    file.mkdir()
    done = run_cli(
        "serve", "--local", "--connection-file", file, "-m", NO_MODEL, "--set", f"spool={tmp_path / 'spool'}"
    )
    assert done.returncode == 2
    assert "connection.json" in done.stderr
    assert os.listdir(tmp_path / "spool") == []
