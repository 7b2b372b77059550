"""Whether a client and a server fit, with a sentence for each way in which they do not. The standard library only."""

from __future__ import annotations

from typing import Any

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.errors import Mismatch

API = "1"
"""Version of the routes and their fields that this client speaks."""


def fit(told: Any) -> list[str]:
    """What a user should know of a server, one sentence each.

    Args:
        told: Its capabilities.

    Raises:
        Mismatch: It does not fit, or it is another program that answered.
    """
    api = told.get("api") if isinstance(told, dict) else None
    if not isinstance(api, str):
        raise Mismatch("Expected a MedicalSAM3 server, another program answers there; check the address.")
    if api != API:
        older = "the server" if _number(api) < _number(API) else "this program"
        raise Mismatch(f"Expected a server of interface {API}, got {api}; update {older}.")
    notices = []
    version, model = told.get("version", ""), told.get("model")
    if version != __version__:
        notices.append(f"The server has version {version}, this program {__version__}; they work together.")
    if model is None:
        notices.append("The server is still loading its model; the first job waits for it.")
    elif model.get("demonstration"):
        notices.append(f"'{model['name']}' is a demonstration model: its results show how this works, no more.")
    return notices


def _number(version: str) -> float:
    try:
        return float(version)
    except ValueError:
        return float("inf")
