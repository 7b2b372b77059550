"""What is written about running the server is what there is."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from MedicalSAM3Lib.server_settings import PREFIX, ServerSettings, make_server_settings

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

SETTINGS = set(ServerSettings.model_fields) - {"tokens"}


@pytest.fixture
def folder(repository: Path) -> Path:
    return repository / "Resources" / "deploy"


def test_every_setting_is_listed_with_its_default_and_its_meaning(folder: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    listed = {name: (default, meaning) for name, default, meaning in rows}
    assert set(listed) == SETTINGS
    for name, (default, meaning) in listed.items():
        entry = ServerSettings.model_fields[name]
        assert meaning == entry.description
        if isinstance(entry.default, int | float) and not isinstance(entry.default, bool):
            assert float(default) == entry.default, name


def test_the_settings_file_of_the_example_can_be_used(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    example = re.search(r"    # server\.toml\n((?:    .+\n)+)", text)
    assert example
    values = tomllib.loads(re.sub(r"^    ", "", example[1], flags=re.M))
    values |= {"host": "127.0.0.1"}  # whose tokens are in a file that is not here
    assert make_server_settings(**values).devices == ("cuda:0", "cuda:1")


@pytest.mark.parametrize("name", ["medsam3.service", "Containerfile", "README.md"])
def test_every_variable_that_is_named_is_one(folder: Path, name: str) -> None:
    named = re.findall(rf"{PREFIX}([A-Z_]+)", (folder / name).read_text(encoding="utf-8"))
    assert {variable.lower() for variable in named} <= SETTINGS | {"token"}


def test_the_unit_is_well_formed_and_locked(folder: Path) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(folder / "medsam3.service", encoding="utf-8")
    service = unit["Service"]
    assert " serve " in service["ExecStart"]
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["LimitCORE"]) == ("true", "strict", "0")
    assert service["User"] != "root"


def test_the_container_does_not_run_as_root(folder: Path) -> None:
    lines = (folder / "Containerfile").read_text(encoding="utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["medsam3"]
    assert lines.index("USER medsam3") < next(n for n, line in enumerate(lines) if line.startswith("CMD"))
