"""What is behind: packages by their metadata, models by the hash of what they were made of, the hub played."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from MedicalSAM3Lib import __version__, model_import, registry, update_check
from MedicalSAM3Lib.catalogue import catalogue
from MedicalSAM3Lib.download import OFFLINE_VARIABLE
from MedicalSAM3Lib.installed import is_met, numbers, package_of, version_of
from MedicalSAM3Lib.model_folder import CARD_FILE, write_sums
from Testing.lib.fake_transport import FakeTransport
from Testing.lib.small_world import save_small_model

HAD, OFFERED = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM3_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(OFFLINE_VARIABLE, raising=False)


def install(name: str, source: str = HAD) -> None:
    """A model under a name, made of a file of this hash; "" = its card says nothing of that."""
    folder = save_small_model(registry.home() / "models" / name)
    card = f"# {name}\n\nConverted from `sam3.pt` (SHA-256 {source}). Not trained.\n" if source else "# Own\n"
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    write_sums(folder)


def states(transport: Any) -> dict[str, str]:
    return {one["name"]: one["state"] for one in update_check.look_at_models(transport)}


def test_versions_are_compared_by_their_numbers() -> None:
    assert numbers("2.6.0+cpu") == (2, 6, 0) < numbers("2.10")
    assert package_of("huggingface-hub>=1.0") == "huggingface-hub"
    assert is_met("numpy>=1.0")
    assert not is_met("numpy>=999")
    assert not is_met("no-such-package>=1")
    assert (version_of("no-such-package>=1"), version_of("numpy>=1")[:1].isdigit()) == ("", True)


def test_packages_that_are_missing_or_too_old_are_listed_and_no_others() -> None:
    told = update_check.look(["numpy>=999", "no-such-package>=1.2", "pytest>=1"], FakeTransport(b""))
    old, missing = told["packages"]
    assert (old["name"], old["asked"], bool(old["installed"])) == ("numpy", "999", True)
    assert missing == {"name": "no-such-package", "asked": "1.2", "installed": ""}
    assert (told["version"], told["models"]) == (__version__, [])


def test_without_what_reads_the_catalogue_packages_are_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_check, "look_at_models", lambda transport: pytest.fail("it cannot be read"))
    assert [one["name"] for one in update_check.look(["pydantic>=999"], FakeTransport(b""))["packages"]] == ["pydantic"]


@pytest.mark.parametrize(("offered", "state"), [(HAD, "current"), (OFFERED, "newer")])
def test_a_model_is_compared_with_what_the_hub_offers(offered: str, state: str) -> None:
    install("sam3")
    assert states(FakeTransport(b"", declared=offered)) == {"sam3": state}


def test_a_model_that_is_not_the_pinned_file_is_told_without_the_hub() -> None:
    install("medical-sam3-2d")
    hub = FakeTransport(b"", declared=HAD)
    assert states(hub) == {"medical-sam3-2d": "other"}
    assert hub.tokens == []
    pinned = catalogue()["medical-sam3-2d"].files[0].sha256
    assert pinned is not None
    install("medical-sam3-2d", pinned)
    assert states(FakeTransport(b"", declared=pinned)) == {"medical-sam3-2d": "current"}


def test_what_cannot_be_compared_is_told() -> None:
    install("sam3", source="")
    install("own")
    assert states(FakeTransport(b"")) == {"sam3": "unknown", "own": "imported"}


@pytest.mark.parametrize(
    ("fault", "state"),
    [(PermissionError(), "no_access"), (FileNotFoundError(), "gone"), (ConnectionError(), "offline")],
)
def test_a_hub_that_does_not_say_is_an_answer(fault: Exception, state: str) -> None:
    install("sam3")
    assert states(FakeTransport(b"", fails={"describe": fault})) == {"sam3": state}


def test_a_network_that_is_not_there_is_waited_for_once() -> None:
    for name in ("sam3", "medical-sam3-3d"):
        install(name)
    hub = FakeTransport(b"", fails={"describe": ConnectionError()})
    assert states(hub) == {"sam3": "offline", "medical-sam3-3d": "offline"}
    assert len(hub.tokens) == 1


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    install("sam3")
    monkeypatch.setenv(OFFLINE_VARIABLE, "1")
    hub = FakeTransport(b"", declared=HAD)
    assert states(hub) == {"sam3": "offline"}
    assert hub.tokens == []


def test_the_card_of_a_conversion_says_what_it_was_made_of(tmp_path: Path) -> None:
    source = save_small_model(tmp_path / "hf")
    model_import.convert(source, tmp_path / "own")
    assert model_import.source_hash(tmp_path / "own") == model_import.hash_of(source)
    assert model_import.source_hash(tmp_path / "gone") == ""


def test_as_a_child_it_prints_one_line(repository: Path) -> None:
    command = [sys.executable, "-m", "MedicalSAM3Lib.update_check", "numpy>=1"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"ok": True, "version": __version__, "packages": [], "models": []}
