"""What the server says about itself: health, capabilities, concepts, models, samples. See ``wire``."""

from __future__ import annotations

from typing import Any, Literal

from MedicalSAM3Lib.wire import Codes, Wire

Status = Literal["ok", "warming", "degraded"]


class EngineHealth(Wire):
    """One engine."""

    device: str
    """Where it computes, such as cpu or cuda:0."""
    state: Literal["starting", "idle", "busy", "dead"]
    """What it does now."""


class Health(Wire):
    """Whether the server can be used."""

    status: Status
    """ok: an engine is ready; warming: engines start; degraded: an engine is dead."""
    version: str
    """Of this software."""
    engines: list[EngineHealth]
    """One for each device."""


class Limits(Wire):
    """What is refused beyond."""

    upload_bytes: int
    """Largest file, in bytes."""
    voxels: int
    """Largest volume, in voxels."""
    expansion_ratio: int
    """Most times that a compressed file may be smaller than its content."""
    concepts: int
    """Most concepts of a job."""
    phrase_characters: int
    """Longest concept, in characters."""
    chunk_bytes: int
    """Largest piece of an upload, in bytes, before and after it is expanded."""


class ModelFacts(Wire):
    """The model that the engines keep loaded."""

    name: str
    """Its name."""
    weights_hash: str
    """SHA-256 of its weights."""
    demonstration: bool
    """Whether it is there to show that the software works, and for nothing more."""
    has_tracker: bool
    """Whether it can carry objects through a volume (modes track and fuse)."""
    licence: str
    """Under which it may be used; empty where its folder does not say."""
    notice: str
    """What a person should know of it."""
    mode: str
    """What the mode "auto" means for it."""


class Capabilities(Wire):
    """What this server can do."""

    api: Literal["1"]
    """Version of this interface."""
    version: str
    """Of this software."""
    model: ModelFacts | None
    """The loaded model; null while the engines start."""
    devices: list[str]
    """Where it computes."""
    formats_in: list[str]
    """Suffixes of files that can be uploaded."""
    formats_out: list[str]
    """Formats of a segmentation."""
    limits: Limits
    """What a request may be at most."""
    manage_models: bool
    """Whether this client may download and remove models."""
    settings_schema: dict[str, Any]
    """JSON schema of the settings of a job."""


class ConceptEntry(Wire):
    """A known concept. Any other words can be asked for, too."""

    concept_id: str
    """For programs."""
    name: str
    """As a person writes it."""
    synonyms: list[str]
    """Other words for the same."""
    side: Literal["", "left", "right"]
    """Side, where it has one."""
    colour: tuple[int, int, int]
    """RGB, 0 to 255."""
    codes: Codes
    """Terminology."""


class ModelEntry(Wire):
    """A model that this software knows or the user installed."""

    name: str
    """Its name."""
    title: str
    """One line for people."""
    state: Literal["ready", "absent", "broken"]
    """ready: installed; absent: can be downloaded; broken: its files are not what they were."""
    bytes: int
    """Size on this machine, or of the download."""
    licence: str
    """Short name of its licence."""
    licence_text: str
    """What one agrees to by downloading it."""
    demonstration: bool
    """Whether it came with this software, to show that it works."""


class DownloadRequest(Wire):
    """Consent to a licence."""

    accept_licence: bool = False
    """True once a person has read and accepted the licence of the model."""


class SampleEntry(Wire):
    """An image that came with this software."""

    name: str
    """Its name."""
    title: str
    """What it shows, in one line."""


class Freed(Wire):
    """What was forgotten."""

    freed_bytes: int
    """How many bytes that freed."""
