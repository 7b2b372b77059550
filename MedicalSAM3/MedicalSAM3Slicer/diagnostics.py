"""The report that a user can paste: versions, engine, models, the last error. No patient data, address or token."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import Any

import slicer

from MedicalSAM3Lib.installed import is_met, package_of

from .install import REQUIREMENTS, TORCH
from .options import EngineSettings


def diagnostics(engine: EngineSettings, model: str, said: Sequence[str]) -> str:
    """The report as text, in English, whatever the language of the panel.

    Args:
        engine: Of which only the kind is told, and whether an address and a token are given.
        model: Name of the chosen model.
        said: What the engine said last: sentences of this software, which hold no names of patients or files.
    """
    from MedicalSAM3Lib import __version__

    version: Any = slicer.app.applicationVersion
    missing = [package_of(one) for one in (TORCH, *REQUIREMENTS) if not is_met(one)]
    lines = [
        f"MedicalSAM3 {__version__}",
        f"Slicer {version}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"Engine: {engine.kind}; address {_given(engine.url)}, token {_given(engine.token)}, "
        f"certificate {_given(engine.certificate)}, Python of its own: {_given(engine.python)}, "
        f"device {engine.device or 'automatic'}",
        f"Model: {model}",
        f"Missing in Slicer's Python: {', '.join(missing) or 'nothing'}",
        f"torch in Slicer's process: {'loaded' if 'torch' in sys.modules else 'not loaded'}",
        *(f"Said: {sentence}" for sentence in said if sentence),
    ]
    return "\n".join(lines)


def _given(value: str) -> str:
    return "given" if value else "not given"
