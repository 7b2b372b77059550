"""``python -m MedicalSAM3Lib.update_check REQUIREMENT...``: what of this installation is behind. A child of the panel.

Packages are looked up here; what the hub has of the installed models is asked, and only then is anything contacted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.download import HubTransport, Transport, is_offline
from MedicalSAM3Lib.installed import is_met, package_of, version_of
from MedicalSAM3Lib.model_jobs import answer

if TYPE_CHECKING:
    from MedicalSAM3Lib.registry import ModelState

NEEDED = ("huggingface-hub", "pydantic")
"""Packages without which models cannot be looked at."""

State = Literal["current", "newer", "other", "imported", "unknown", "no_access", "gone", "offline"]
"""current: the very file that is offered; newer: another one is offered now; other: not the file that the catalogue
names; imported: from a file of the user's; unknown: nothing to compare by; the rest: the hub did not say."""


def main(requirements: Sequence[str]) -> int:
    """Print one line of JSON, see ``look``; return 0."""
    return answer(lambda: look(requirements, HubTransport()))


def look(requirements: Sequence[str], transport: Transport) -> dict[str, Any]:
    """Version of this library, packages that are missing or too old, and a state for each installed model.

    Args:
        requirements: Such as "rich>=13.7".
        transport: The network.
    """
    packages = [
        {"name": package_of(one), "asked": one.partition(">=")[2], "installed": version_of(one)}
        for one in requirements
        if not is_met(one)
    ]
    can_look = not any(package["name"] in NEEDED for package in packages)
    models = look_at_models(transport) if can_look else []
    return {"version": __version__, "packages": packages, "models": models}


def look_at_models(transport: Transport) -> list[dict[str, str]]:
    """Name, title and ``State`` of each model that is installed and not bundled."""
    from MedicalSAM3Lib.registry import list_models

    installed = [one for one in list_models() if one.folder and not (one.info and one.info.kind == "bundled")]
    found: list[dict[str, str]] = []
    for model in installed:
        is_cut_off = any(one["state"] == "offline" for one in found)  # once is enough to wait for a network
        state = _state(model, None if is_cut_off else transport)
        found.append({"name": model.name, "title": model.info.title if model.info else "", "state": state})
    return found


def _state(model: ModelState, transport: Transport | None) -> State:
    from MedicalSAM3Lib.model_import import source_hash

    if model.info is None or model.folder is None:
        return "imported"
    had, file = source_hash(model.folder), model.info.files[0]
    if not had:
        return "unknown"
    if file.sha256 and file.sha256 != had:
        return "other"
    if transport is None or is_offline():
        return "offline"
    try:
        offered = transport.describe(model.info.repo, file.name, model.info.revision, None).sha256
    except PermissionError:
        return "no_access"
    except FileNotFoundError:
        return "gone"
    except OSError:
        return "offline"
    if offered is None:
        return "unknown"
    return "current" if offered == had else "newer"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
