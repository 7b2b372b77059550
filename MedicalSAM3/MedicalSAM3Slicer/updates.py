"""Whether anything of the engine is behind: on request only, as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slicer.i18n import tr as _

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.installed import numbers

from .connection import Connection
from .engine_child import runChild
from .install import REQUIREMENTS, TORCH
from .task import Progress, ThreadTask


def checkForUpdates(task: ThreadTask, connection: Connection) -> list[str]:
    """Ask the engine for its version; of one on this computer look at packages and models, and ask the hub for those.

    Starts no engine. A network that is not there is a sentence.
    """
    if connection.local is None:
        version = str(connection.client(task).capabilities()["version"])
        return [serverText(version), _("Packages and models of a server are up to whoever runs it."), extensionText()]
    running = connection.running()
    version = str(running.capabilities()["version"]) if running is not None else ""
    task.report(Progress(_("Looking at packages and models")))
    told = runChild(task, connection.settings, "update_check", [TORCH, *REQUIREMENTS])
    return [engineText(version), packagesText(told["packages"]), *modelTexts(told), extensionText()]


def extensionText() -> str:
    """Where the extension itself is updated."""
    return _("Extension: version {version}; Slicer's Extensions Manager updates it.").format(version=__version__)


def engineText(version: str) -> str:
    """Of an engine on this computer; "" = it does not run."""
    if not version:
        return _("Engine: not running; it will start with the library of this extension.")
    if version == __version__:
        return _("Engine: up to date.")
    return _(
        "Engine: version {version} runs, this extension has {own}. Press Stop engine: the next run starts the right "
        "one."
    ).format(version=version, own=__version__)


def serverText(version: str) -> str:
    """Of a server."""
    if version == __version__:
        return _("Server: of this extension's version, {own}.").format(own=__version__)
    if numbers(version) < numbers(__version__):
        text = _("Server: version {version}, older than this extension's {own}; ask whoever runs it to update it.")
    else:
        text = _("Server: version {version}, newer than this extension's {own}; update the extension.")
    return text.format(version=version, own=__version__)


def packagesText(packages: Sequence[Mapping[str, str]]) -> str:
    """Of the packages in the engine's Python that are missing or too old."""
    if not packages:
        return _("Packages: all as this version asks for.")
    names = [
        _("{name} {installed} (needs {asked})").format(**one) if one["installed"] else one["name"] for one in packages
    ]
    return _("Packages: missing or too old: {names}. Press Install, or update them in the chosen Python.").format(
        names=", ".join(names)
    )


def modelTexts(told: Mapping[str, Any]) -> list[str]:
    """Of each installed model but the demonstration."""
    if not told["models"]:
        return [_("Models: none but the demonstration model could be compared.")]
    return [
        _("Model {name}: {state}").format(name=one["name"], state=modelStates().get(one["state"], one["state"]))
        for one in told["models"]
    ]


def modelStates() -> dict[str, str]:
    """What ``MedicalSAM3Lib.update_check`` says of a model, in words."""
    return {
        "current": _("up to date."),
        "newer": _("another file is offered now; remove the model and download it again to get that."),
        "other": _("not the file that this version of the extension names; remove the model and download it again."),
        "imported": _("imported by you; there is nothing to compare it with."),
        "unknown": _("it cannot be told of which revision it is."),
        "no_access": _("not compared, the hub wants an account that accepted the licence; set HF_TOKEN."),
        "gone": _("the hub does not offer it any more."),
        "offline": _("not compared, the hub could not be reached or is not to be asked. It works without."),
    }
