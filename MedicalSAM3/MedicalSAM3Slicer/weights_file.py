"""Weights that the user has as a file or a folder: what to call them, and under which licence they come."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from MedicalSAM3Lib.resources import resource

from .options import EngineSettings
from .task import UserError

CONFIG = "config.json"
UNKNOWN_AS = "sam3"
"""The licence in question for weights that nobody knows: what this software can load, derives from this one mostly."""


@dataclass(frozen=True)
class Weights:
    """What is to be installed, under which name, and the licence for its card; "" where nobody knows that."""

    source: Path
    name: str
    licence: str


def checkedWeights(engine: EngineSettings, path: str, name: str, acceptLicence: bool) -> Weights:
    """What a user wants to import.

    Raises:
        UserError: The engine is a server, there is no such file, or the licence was not accepted.
    """
    if engine.kind != "local":
        raise UserError(_("Weights can be brought to the engine on this computer only; ask whoever runs the server."))
    source = sourceOf(path)
    if not path.strip() or not source.exists():
        raise UserError(_("There is no such file or folder; choose the weights again."))
    if not name.strip():
        raise UserError(_("Give the model a name."))
    if not acceptLicence:
        raise UserError(_("Read the licence and accept it first."))
    known = _published(path)
    return Weights(source, name.strip(), f"{known['licence']['name']}, {known['licence']['url']}" if known else "")


def sourceOf(path: str) -> Path:
    """What to import: the file that was chosen, or its folder where that is the configuration of a model."""
    chosen = Path(path.strip())
    return chosen.parent if chosen.name == CONFIG else chosen


def suggestedName(path: str) -> str:
    """A name to install it under; "" where nothing is chosen."""
    if not path.strip():
        return ""
    source = sourceOf(path)
    stem = source.stem if source.suffix else source.name
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:40]
    return f"{name}-imported" if name in {"", "auto", *_catalogue()} else name


def licenceText(path: str) -> str:
    """The licence to accept, in words."""
    known = _published(path)
    if known is not None:
        return _("{title}. Licence: {licence}. {text}").format(
            title=known["title"], licence=known["licence"]["name"], text=known["licence"]["accept"]
        )
    likely = _catalogue()[UNKNOWN_AS]["licence"]
    return _(
        "The licence is that of whoever gave you the file: ask for it. Weights that derive from Meta's SAM 3 come "
        "under the {licence}, too: {url}"
    ).format(licence=likely["name"], url=likely["url"])


def _published(path: str) -> dict[str, Any] | None:
    """The entry of the catalogue whose file is called like this one."""
    name = sourceOf(path).name
    found = (one for one in _catalogue().values() if any(file["name"] == name for file in one["files"]))
    return next(found, None)


def _catalogue() -> dict[str, dict[str, Any]]:
    """Models by name. Read without the library's own reader, which needs packages that Slicer has not."""
    models = json.loads(resource("models.json").read_text(encoding="utf-8"))["models"]
    return {entry["name"]: entry for entry in models}
