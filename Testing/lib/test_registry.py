"""Models by name, from catalogue to loaded model, with a network and a home of the test's own."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from MedicalSAM3Lib import registry
from MedicalSAM3Lib.catalogue import ModelInfo, catalogue, read_catalogue
from MedicalSAM3Lib.errors import Cancelled, OutputError, RunError, SettingsError, WeightsError
from MedicalSAM3Lib.model_folder import load_model_folder
from MedicalSAM3Lib.registry import (
    download_model,
    find_installed,
    home,
    import_model,
    list_models,
    load_model,
    remove_model,
    resolve,
    verify_model,
)
from MedicalSAM3Lib.resources import ResourceError, resource
from Testing.lib.checkpoint_worlds import meta_tensors, small_architecture, small_model, without_prefix
from Testing.lib.fake_transport import FakeTransport
from Testing.lib.small_world import save_small_model

SIZES = small_architecture()


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM3_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDSAM3_OFFLINE", raising=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("bundled") / "tiny")


@pytest.fixture
def _bundled(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundle a small model in the place of the real one."""
    monkeypatch.setattr(registry, "resource", lambda *parts: tiny if parts == ("models", "tiny") else resource(*parts))


@pytest.fixture
def _without_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real catalogue, but the checkpoints are those of the test."""
    content = json.loads(resource("models.json").read_text(encoding="utf-8"))
    for model in content["models"]:
        for file in model["files"]:
            file["sha256"] = None
    path = tmp_path / "models.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    entries = read_catalogue(path)
    monkeypatch.setattr(registry, "catalogue", lambda: entries)


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    """Small stand-ins of the published files."""
    meta = meta_tensors(small_model())
    tuned = {key: value if value.is_complex() else value + 1 for key, value in without_prefix(meta).items()}
    files = {}
    for name, content in {"sam3": meta, "medical-sam3-2d": {"model": tuned, "optimizer": {}}}.items():
        buffer = io.BytesIO()
        torch.save(content, buffer)
        files[name] = buffer.getvalue()
    return files


def accept(info: ModelInfo) -> bool:
    return True


def download(name: str, content: bytes) -> Path:
    return download_model(name, accept, transport=FakeTransport(content), architecture=SIZES)


def test_the_catalogue_is_complete() -> None:
    assert list(catalogue()) == ["tiny", "sam3", "medical-sam3-2d", "medical-sam3-3d"]
    for info in catalogue().values():
        assert info.licence.name
        assert info.licence.url.startswith("https://")
        assert info.licence.accept
        assert (info.kind == "download") == bool(info.files) == bool(info.repo)
        assert not info.base or info.base in catalogue()
    assert catalogue()["sam3"].gated
    assert catalogue()["tiny"].about_gb == 0
    assert len({info.rank for info in catalogue().values()}) == len(catalogue())


@pytest.mark.parametrize("content", ["", "[]", '{"schema_version": 2, "models": []}', '{"models": [{}]}'])
def test_a_damaged_catalogue_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "models.json").write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"list of models in models\.json"):
        read_catalogue(tmp_path / "models.json")


def test_the_home_is_chosen_by_the_user_or_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home() == tmp_path / "home"
    monkeypatch.delenv("MEDSAM3_HOME")
    assert home().name == "medical-sam3"


@pytest.mark.usefixtures("_bundled")
def test_auto_is_the_bundled_model_with_its_notice_when_nothing_else_is_there(tiny: Path) -> None:
    assert resolve() == tiny
    loaded = load_model(device="cpu")
    assert loaded.is_demonstration
    assert loaded.notice
    assert next(loaded.model.parameters()).device.type == "cpu"


@pytest.mark.usefixtures("_bundled", "_without_hashes")
def test_auto_is_the_best_that_is_installed(tiny: Path, published: dict[str, bytes]) -> None:
    sam3 = download("sam3", published["sam3"])
    assert resolve() == sam3
    better = download("medical-sam3-2d", published["medical-sam3-2d"])
    assert resolve() == better
    remove_model("medical-sam3-2d")
    remove_model("sam3")
    assert resolve() == tiny


def test_nothing_at_all_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*parts: str) -> Path:
        raise ResourceError("gone")

    monkeypatch.setattr(registry, "resource", gone)
    with pytest.raises(WeightsError, match="medsam3 models download NAME"):
        resolve()


@pytest.mark.usefixtures("_bundled", "_without_hashes")
def test_a_download_becomes_a_model_folder(published: dict[str, bytes], tmp_path: Path) -> None:
    asked: list[ModelInfo] = []
    steps: list[int] = []
    folder = download_model(
        "sam3",
        lambda info: asked.append(info) or True,  # type: ignore[func-returns-value]
        transport=FakeTransport(published["sam3"]),
        on_bytes=lambda done, total: steps.append(done),
        architecture=SIZES,
    )
    assert [info.name for info in asked] == ["sam3"]
    assert steps[-1] == len(published["sam3"])
    assert folder == tmp_path / "home" / "models" / "sam3" == find_installed("sam3")
    loaded = load_model("sam3", device="cpu")
    assert loaded.name == "sam3"
    assert not loaded.is_demonstration
    assert "never calibrated" in loaded.notice
    assert "SAM License" in loaded.card.read_text(encoding="utf-8")
    state = small_model().state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())
    assert (tmp_path / "home" / "downloads" / "sam3" / "sam3.pt").exists()  # the base for writing Meta's layout


@pytest.mark.usefixtures("_without_hashes")
def test_a_tracker_comes_from_an_installed_base(published: dict[str, bytes], tmp_path: Path) -> None:
    alone = load_model_folder(download("medical-sam3-2d", published["medical-sam3-2d"]))
    assert not alone.model.has_tracker
    assert not (tmp_path / "home" / "downloads" / "medical-sam3-2d").exists()
    download("sam3", published["sam3"])
    both = load_model_folder(download("medical-sam3-2d", published["medical-sam3-2d"]))
    assert both.model.has_tracker


def test_a_licence_that_is_not_accepted_downloads_nothing(published: dict[str, bytes], tmp_path: Path) -> None:
    transport = FakeTransport(published["sam3"])
    with pytest.raises(Cancelled, match="licence of 'sam3' was not accepted; nothing was downloaded"):
        download_model("sam3", lambda info: False, transport=transport)
    assert transport.tokens == []
    assert not (tmp_path / "home").exists()


def test_another_file_than_the_published_one_is_not_installed(published: dict[str, bytes]) -> None:
    with pytest.raises(WeightsError, match="SHA-256"):
        download("medical-sam3-2d", published["medical-sam3-2d"])
    assert find_installed("medical-sam3-2d") is None


@pytest.mark.usefixtures("_without_hashes")
def test_an_interrupted_download_goes_on(published: dict[str, bytes]) -> None:
    transport = FakeTransport(published["sam3"], breaks_after=100_000)
    with pytest.raises(RunError, match="goes on where it stopped"):
        download_model("sam3", accept, transport=transport, architecture=SIZES)
    assert find_installed("sam3") is None
    transport.breaks_after = None
    download_model("sam3", accept, transport=transport, architecture=SIZES)
    assert transport.starts == [0, 100_000]
    assert verify_model("sam3")


def test_a_file_that_is_no_checkpoint_leaves_no_model() -> None:
    with pytest.raises(WeightsError, match="no pickle at all"):
        download("sam3", b"<html>not a checkpoint</html>")
    assert find_installed("sam3") is None
    assert not (home() / "models").exists() or not list((home() / "models").iterdir())


@pytest.mark.parametrize("name", ["tiny", "unknown"])
def test_only_the_catalogue_can_be_downloaded(name: str) -> None:
    with pytest.raises(SettingsError, match=r"Expected a model to download \(sam3, "):
        download_model(name, accept)


def test_an_imported_checkpoint_is_a_model_like_any_other(published: dict[str, bytes], tmp_path: Path) -> None:
    source = tmp_path / "mine.pt"
    source.write_bytes(published["medical-sam3-2d"])
    folder = import_model(source, "mine", dtype="float16", architecture=SIZES)
    assert [state.name for state in list_models()][-1] == "mine"
    assert list_models()[-1].info is None
    loaded = load_model("mine", device="cpu")
    assert loaded.name == "mine"
    assert "`mine.pt`" in loaded.card.read_text(encoding="utf-8")
    assert remove_model("mine") == folder
    assert find_installed("mine") is None
    assert list(folder.parent.iterdir()) == []


def test_a_model_folder_is_imported_as_it_is(tiny: Path) -> None:
    folder = import_model(tiny, "copy")
    assert verify_model("copy") == verify_model(tiny)
    assert load_model_folder(folder).is_demonstration
    import_model(tiny, "copy")
    assert [path.name for path in folder.parent.iterdir()] == ["copy"]


def test_a_damaged_model_folder_is_not_imported(tiny: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(tiny, tmp_path / "damaged"))
    (damaged / "README.md").write_text("other", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"README\.md of 'damaged' was changed"):
        import_model(damaged, "copy")
    assert find_installed("copy") is None


@pytest.mark.parametrize("name", ["", "../x", "A", "a b", ".hidden", "x" * 65])
@pytest.mark.parametrize("act", [lambda name: import_model("x.pt", name), remove_model, find_installed])
def test_a_name_cannot_lead_out_of_the_home(name: str, act: Callable[[str], object]) -> None:
    with pytest.raises(SettingsError, match="lower case letters"):
        act(name)


@pytest.mark.parametrize("name", ["tiny", "sam3", "auto"])
def test_a_name_of_the_catalogue_is_taken(name: str, tiny: Path) -> None:
    with pytest.raises(SettingsError, match="taken"):
        import_model(tiny, name)


def test_verify_names_the_changed_file(tiny: Path) -> None:
    folder = import_model(tiny, "copy")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"merges\.txt of 'copy' was changed"):
        verify_model("copy")


def test_what_is_not_installed_cannot_be_removed() -> None:
    with pytest.raises(WeightsError, match="'sam3' is not installed"):
        remove_model("sam3")


@pytest.mark.usefixtures("_bundled")
def test_the_bundled_model_stays(tiny: Path) -> None:
    with pytest.raises(WeightsError, match="part of this software"):
        remove_model("tiny")
    assert tiny.exists()


def test_a_removal_that_fails_says_so(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_model(tiny, "copy")

    def refuses(source: Path, target: Path) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuses)
    with pytest.raises(OutputError, match="Permission denied"):
        remove_model("copy")


def test_a_path_is_a_model_too(tiny: Path, published: dict[str, bytes], tmp_path: Path) -> None:
    assert resolve(tiny) == tiny
    assert load_model(str(tiny), device="cpu").name == "tiny"
    (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"'text\.pt'"):
        load_model(tmp_path / "text.pt", device="cpu")


def test_a_folder_of_transformers_is_loaded_as_it_is(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny / name, folder)
    loaded = load_model(folder, device="cpu")
    assert loaded.preprocess.image_size == loaded.model.image_size
    assert "never calibrated" in loaded.notice


def test_a_model_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(WeightsError, match="'sam3' is not installed; run 'medsam3 models download sam3'"):
        load_model("sam3")


@pytest.mark.parametrize("name", ["Unknown", ""])
def test_an_unknown_model_is_a_wrong_call_that_says_which_there_are(name: str) -> None:
    with pytest.raises(SettingsError, match="expected a path or one of tiny, sam3"):
        load_model(name)


def test_a_device_that_is_not_there_is_refused_before_loading(tiny: Path) -> None:
    with pytest.raises(SettingsError, match="device"):
        load_model(tiny, device="cuda:99")
