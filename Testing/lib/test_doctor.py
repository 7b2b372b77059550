"""The doctor tells what it finds, and survives what it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from MedicalSAM3Lib import cli, registry, runtime
from MedicalSAM3Lib.doctor import Fact, examine, folder_gb, show, weights_bytes
from MedicalSAM3Lib.errors import SettingsError, WeightsError
from Testing.lib.small_world import save_small_model

DOWNLOAD = registry.ModelState("sam3", registry.catalogue()["sam3"], None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDSAM3_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    folder = save_small_model(tmp_path / "models" / "mine")
    monkeypatch.setattr(registry, "list_models", lambda: (registry.ModelState("mine", None, folder), DOWNLOAD))
    monkeypatch.setattr(registry, "resolve", lambda: folder)
    return tmp_path


def value_of(facts: list[Fact], area: str, name: str) -> str:
    return next(fact.value for fact in facts if (fact.area, fact.name) == (area, name))


def test_it_names_versions_machine_models_and_what_runs_where(home: Path) -> None:
    import torch

    facts = examine()
    assert [fact for fact in facts if fact.is_problem] == []
    assert value_of(facts, "Versions", "torch") == torch.__version__
    assert value_of(facts, "Machine", "free memory").endswith("GB")
    assert str(home) in value_of(facts, "Models", "folder")
    assert value_of(facts, "Models", "mine").startswith("installed")
    assert "to download" in value_of(facts, "Models", "sam3")
    assert "float32" in value_of(facts, "Runs", "--speed exact")
    assert "GB free" in value_of(facts, "Runs", "mine")
    assert "when no model is named" in value_of(facts, "Runs", "mine")


def test_the_weights_are_weighed_without_loading_them(home: Path) -> None:
    from MedicalSAM3Lib.model_folder import load_model_folder

    folder = home / "models" / "mine"
    tensors = load_model_folder(folder).model.state_dict().values()
    assert weights_bytes(folder) == sum(4 * tensor.numel() for tensor in tensors)
    assert folder_gb(folder) == pytest.approx(sum(path.stat().st_size for path in folder.iterdir()) / 1e9)


@pytest.mark.usefixtures("home")
def test_a_model_that_does_not_fit_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.Runtime, "free_bytes", lambda _: 10)
    assert "mine" in [fact.name for fact in examine() if fact.is_problem]


def test_no_model_at_all_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "list_models", lambda: ())
    problems = [fact for fact in examine() if fact.is_problem]
    assert [fact.area for fact in problems] == ["Models"]


@pytest.mark.usefixtures("home")
def test_a_machine_with_imported_models_alone_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise WeightsError("none")

    monkeypatch.setattr(registry, "resolve", none)
    facts = examine()
    assert not any(fact.is_problem for fact in facts)
    assert "when no model is named" not in value_of(facts, "Runs", "mine")


@pytest.mark.usefixtures("home")
def test_what_cannot_be_found_out_is_a_line_and_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise SettingsError("device: broken\ndriver.")

    monkeypatch.setattr(runtime, "pick_runtime", broken)
    problem = next(fact for fact in examine() if fact.is_problem)
    assert (problem.area, problem.value) == ("Runs", "SettingsError: device: broken driver.")


def test_the_exit_code_tells_whether_there_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Fact("Machine", "memory", "1 GB"), Fact("Models", "problem", "none", is_problem=True)
    assert show([good]) == 0
    assert "Ready to run." in capsys.readouterr().out
    assert show([good, bad]) == 3
    assert "1 problem found." in capsys.readouterr().out


@pytest.mark.usefixtures("home")
def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert "transformers" in capsys.readouterr().out
