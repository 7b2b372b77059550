"""``medsam3 models`` on a folder of its own, with a model of a few weights and without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from MedicalSAM3Lib import cli, registry
from MedicalSAM3Lib.catalogue import ModelInfo
from Testing.lib.small_world import save_small_model

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("MEDSAM3_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main(["models", *(str(word) for word in words)])
        return code, *capsys.readouterr()

    return run


def test_list_shows_names_sizes_licences_and_the_folder(call: Call, tmp_path: Path) -> None:
    code, out, err = call("list")
    assert (code, err) == (0, "")
    for said in ("tiny", "sam3", "3.45 GB", "SAM License", "account needed", "home"):
        assert said in out


def test_a_model_is_imported_listed_verified_and_removed(call: Call, small: Path, tmp_path: Path) -> None:
    assert call("import", small, "mine")[0] == 0
    row = next(line for line in call("list")[1].splitlines() if "mine" in line)
    assert "yes" in row
    assert "Imported by you" in row
    code, out, _ = call("verify", "mine")
    assert (code, out) == (0, "mine: 7 files are as they were written\n")
    assert call("remove", "mine", "--yes")[0] == 0
    assert list((tmp_path / "home" / "models").iterdir()) == []


def test_verify_names_the_file_that_was_changed(call: Call, small: Path, tmp_path: Path) -> None:
    call("import", small, "mine")
    (tmp_path / "home" / "models" / "mine" / "presence.json").write_text("{}", encoding="utf-8")
    code, _, err = call("verify", "mine")
    assert code == 3
    assert "presence.json" in err


def test_nothing_is_removed_or_downloaded_without_a_yes(
    call: Call, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("import", small, "mine")
    for words, option in ((["remove", "mine"], "--yes"), (["download", "sam3"], "--accept-licence")):
        code, _, err = call(*words)
        assert code == 2
        assert option in err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda _: False)
    for words in (["remove", "mine"], ["download", "sam3"]):
        assert call(*words)[0] == 130
    assert (tmp_path / "home" / "models" / "mine").is_dir()
    assert not (tmp_path / "home" / "downloads").exists()


def test_download_shows_the_licence_before_it_begins(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, accept: Callable[[ModelInfo], bool], **options: object) -> Path:
        assert accept(registry.catalogue()[name])
        asked.append(str(options["token"]))
        return Path("installed")

    monkeypatch.setattr(registry, "download_model", download)
    code, out, _ = call("download", "sam3", "--accept-licence", "--token", "secret")
    assert code == 0
    assert asked == ["secret"]
    assert out.index("SAM License") < out.index("Installed sam3")
    assert "secret" not in out


@pytest.mark.parametrize("words", [["import", "gone.pt", "mine"], ["verify", "gone"], ["remove", "gone", "--yes"]])
def test_a_model_that_is_not_there_is_one_line(call: Call, words: list[str]) -> None:
    code, _, err = call(*words)
    assert code in (2, 3)
    assert err.count("\n") == 1
    assert "gone" in err
