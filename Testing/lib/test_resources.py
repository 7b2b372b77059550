"""``resource`` finds the same files in a checkout, in a wheel and in a Slicer extension."""

from __future__ import annotations

from pathlib import Path

import pytest

from MedicalSAM3Lib.resources import MARKER, ResourceError, find_root, resource


def install(resources: Path) -> Path:
    resources.mkdir(parents=True)
    (resources / MARKER).write_text("", encoding="utf-8")
    return resources


def test_checkout(repository: Path) -> None:
    assert resource("concepts.csv") == repository / "Resources" / "concepts.csv"
    assert resource("tokenizer").is_dir()


def test_wheel_carries_its_resources_inside_the_package(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "MedicalSAM3Lib"
    resources = install(package / "Resources")
    assert find_root(package) == resources


def test_wheel_ignores_a_stranger_beside_it(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "MedicalSAM3Lib"
    resources = install(package / "Resources")
    install(tmp_path / "site-packages" / "Resources")
    assert find_root(package) == resources


def test_slicer_extension_keeps_them_beside_the_package_among_icons(tmp_path: Path) -> None:
    modules = tmp_path / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    resources = install(modules / "Resources")
    (resources / "Icons").mkdir()
    (modules / "MedicalSAM3Lib").mkdir()
    assert find_root(modules / "MedicalSAM3Lib") == resources


def test_a_resources_folder_with_only_icons_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "Resources" / "Icons").mkdir(parents=True)
    with pytest.raises(ResourceError, match="install medical-sam3 again"):
        find_root(tmp_path / "MedicalSAM3Lib")


def test_missing_entry_is_named() -> None:
    with pytest.raises(ResourceError, match="Resources/models/nothing"):
        resource("models", "nothing")


@pytest.mark.parametrize("parts", [("..", "pyproject.toml"), ("models", "..", "..", "Training")])
def test_paths_out_of_the_folder_are_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(ResourceError, match="inside Resources/"):
        resource(*parts)


def test_absolute_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="inside Resources/"):
        resource(str(tmp_path))
