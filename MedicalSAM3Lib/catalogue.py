"""The models that this library knows by name: ``Resources/models.json``, read and checked. No torch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from MedicalSAM3Lib.errors import WeightsError
from MedicalSAM3Lib.resources import resource

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Licence(_Frozen):
    """What a user agrees to.

    Attributes:
        name: Short name.
        url: Where the whole text is.
        accept: What to show before a download starts.
    """

    name: str
    url: str
    accept: str


class RemoteName(_Frozen):
    """A file to download.

    Attributes:
        name: In the repository.
        about_gb: Size for people, in 10^9 bytes.
        sha256: As its publisher states it; None takes what the server declares at download.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    about_gb: float
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class ModelInfo(_Frozen):
    """A model of the catalogue.

    Attributes:
        name: What is typed.
        title: One line for people.
        kind: "bundled" lies in ``Resources/models``; "download" comes from the Hugging Face hub.
        rank: "auto" takes the installed model with the highest.
        gated: The hub asks for an account that accepted the licence.
        repo, revision: On the hub.
        files: The checkpoint first.
        keep_files: The download stays after the conversion: ``weights.save_meta`` needs Meta's own file.
        base: Model whose tracker is taken, since this one has none; "" if it has.
        licence: Shown before a download.
    """

    name: str = Field(pattern=NAME_PATTERN)
    title: str
    kind: Literal["bundled", "download"]
    rank: int
    gated: bool
    repo: str
    revision: str
    files: tuple[RemoteName, ...]
    keep_files: bool = False
    base: str
    licence: Licence

    @property
    def about_gb(self) -> float:
        """Size of the download in 10^9 bytes, 0 for a bundled model."""
        return sum(file.about_gb for file in self.files)


class _Catalogue(_Frozen):
    schema_version: Literal[1]
    models: tuple[ModelInfo, ...]


@cache
def catalogue() -> dict[str, ModelInfo]:
    """All known models by name, in the order of the file."""
    return read_catalogue(resource("models.json"))


def read_catalogue(path: Path) -> dict[str, ModelInfo]:
    """Read a catalogue file.

    Raises:
        WeightsError: It is no catalogue; the message names the first fault.
    """
    try:
        models = _Catalogue.model_validate(json.loads(path.read_text(encoding="utf-8"))).models
    except (OSError, ValueError, ValidationError) as error:
        first = error.errors()[0]["loc"] if isinstance(error, ValidationError) else type(error).__name__
        raise WeightsError(f"Expected a list of models in {path.name}, it has a fault at {first}.") from error
    return {model.name: model for model in models}
