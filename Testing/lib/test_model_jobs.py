"""Importing weights as a child of the panel: what it tells, what it refuses, and that its end leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from MedicalSAM3Lib import model_jobs, registry
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.model_folder import CARD_FILE
from Testing.lib.small_world import save_foreign_model, save_small_model

SLOW = """
import sys, time
from MedicalSAM3Lib import model_folder, model_jobs
real = model_folder.write_sums
def slow(*words):
    print('{"stage": "written"}', flush=True)
    time.sleep(600)
model_folder.write_sums = slow
sys.exit(model_jobs.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.setenv("MEDSAM3_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(repository))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_foreign_model(tmp_path_factory.mktemp("foreign") / "weights")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process nobody watches the standard input."""
    monkeypatch.setattr("MedicalSAM3Lib.stdin_watch.end_with_stdin", lambda: None)


@pytest.fixture
def call(watched: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    def run(*words: object) -> list[dict[str, Any]]:
        assert model_jobs.main([str(word) for word in words]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_weights_are_installed_with_their_licence_and_each_stage_is_told(call: Any, foreign: Path) -> None:
    assert call("import", "own", foreign, "", "Some licence, https://some.where") == [
        {"stage": "read"}, {"stage": "write"}, {"ok": True},
    ]  # fmt: skip
    folder = registry.find_installed("own")
    assert folder is not None
    assert "Licence: Some licence, https://some.where" in (folder / CARD_FILE).read_text(encoding="utf-8")


def test_what_is_installed_is_not_replaced(call: Any, foreign: Path) -> None:
    call("import", "own", foreign, "", "")
    (last,) = call("import", "own", foreign, "", "")
    assert not last["ok"]
    assert "'own' is installed already" in last["message"]


def test_what_is_no_checkpoint_is_named_and_nothing_is_installed(call: Any, foreign: Path, tmp_path: Path) -> None:
    for content in (b"a letter", b"no weights", b"PK\x03\x04 half of an archive", b""):
        (tmp_path / "letter.pt").write_bytes(content)
        last = call("import", "own", tmp_path / "letter.pt", "", "")[-1]
        assert (last["code"], "letter.pt" in last["message"]) == ("weights", True), last
    save_file({"conv.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    last = call("import", "own", tmp_path / "other.safetensors", "", "")[-1]
    assert last["message"].startswith("Expected a checkpoint of SAM3, 'other.safetensors' has other keys")
    assert "is not there" in call("import", "own", tmp_path / "gone.pt", "", "")[-1]["message"]
    assert "lower case letters" in call("import", "Own Name", foreign, "", "")[-1]["message"]
    assert "taken by the catalogue" in call("import", "auto", foreign, "", "")[-1]["message"]
    assert not list(registry.home().rglob("*.safetensors"))


@pytest.mark.parametrize("layout", ["foreign", "ours"])
def test_a_disk_that_is_too_small_is_told_before_a_byte_is_written(
    call: Any, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    source = foreign if layout == "foreign" else save_small_model(tmp_path / "ours")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    last = call("import", "own", source, "", "")[-1]
    assert (last["ok"], last["code"]) == (False, OutputError.code)
    assert "GB of free disk" in last["message"]
    assert not list((registry.home() / "models").iterdir())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ModuleNotFoundError("no", name="torch"), "torch is missing; install them"),
        (MemoryError(), "more free memory"),
        (KeyError("/secret"), "Unexpected error: KeyError."),
    ],
)
def test_what_this_python_lacks_is_a_sentence(
    call: Any, foreign: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, said: str
) -> None:
    def fail(*words: Any, **named: Any) -> None:
        raise fault

    monkeypatch.setattr("MedicalSAM3Lib.registry.import_model", fail)
    last = call("import", "own", foreign, "", "")[-1]
    assert not last["ok"]
    assert said in last["message"]


def test_the_end_of_its_input_ends_it_and_leaves_nothing(foreign: Path, repository: Path) -> None:
    command = [sys.executable, "-c", SLOW, "import", "own", str(foreign), "", ""]
    with subprocess.Popen(
        command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["stage"] for _ in range(3)] == ["read", "write", "written"]
        half = list((registry.home() / "models").iterdir())
        process.stdin.close()
        assert process.wait() != 0
    assert half
    assert not list((registry.home() / "models").iterdir())
