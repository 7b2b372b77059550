"""Every request and reply of the server, field by field. The OpenAPI schema is made of these.

Settings are ``SegmentSettings`` and findings those of ``Resources/report.schema.json``: neither is written again here.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from MedicalSAM3Lib.config import SegmentSettings

JobKind = Literal["segment", "estimate", "download", "verify", "remove"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class Wire(BaseModel):
    """Strict: a field that nobody knows is an error, so that a typing error is not taken for a default."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Refusal(Wire):
    """Why something was not done."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    code: str
    """For programs; stable, snake_case."""
    message: str
    """One sentence for people: what was expected, what came, what to do."""


class Codes(Wire):
    """Coded terminology, each scheme^value^meaning or empty when unknown."""

    category: str
    """Category."""
    type: str
    """Type."""
    modifier: str
    """Modifier, such as the side."""


class UploadRequest(Wire):
    """A file that is to come."""

    filename: str = Field(min_length=1, max_length=1000)
    """Only its suffix matters; the rest is forgotten at once."""
    bytes: int = Field(ge=1)
    """Size of the file."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file, hexadecimal."""
    modality: str = Field(default="", pattern=r"^[A-Z]{0,16}$")
    """DICOM code, for formats that hold none; what a file says itself wins."""
    is_picture: bool = False
    """Whether a volume of one slice is a picture, for formats that do not say."""


class Upload(Wire):
    """An upload on its way."""

    upload_id: str
    """Name of the upload."""
    received: int
    """Bytes that arrived; the next chunk begins here."""
    bytes: int
    """Size of the file."""
    chunk_bytes: int
    """Largest chunk."""


class SeriesEntry(Wire):
    """A DICOM series of an archive, without patient data."""

    index: int
    """Ask for it with ?series= at completion, from 1."""
    modality: str
    """DICOM code."""
    n_slices: int
    """Images in it."""
    rows: int
    """Rows of an image."""
    columns: int
    """Columns of an image."""


class VolumeEntry(Wire):
    """A decoded volume, ready for jobs."""

    volume_id: str
    """Its name; unguessable, the same for the same content of the same client."""
    shape_kji: tuple[int, int, int]
    """Slices, rows, columns."""
    spacing_mm: tuple[float, float, float]
    """Distance between voxels along i, j, k."""
    modality: str
    """DICOM code, RGB or GREY for photographs, empty if unknown."""
    affine: list[list[float]]
    """Voxel index (i, j, k, 1) to mm in LPS, 4 rows of 4."""
    is_picture: bool
    """Whether it is one picture instead of a volume."""
    bytes: int
    """Size of the file that was uploaded."""
    series: list[SeriesEntry]
    """What else the archive held; empty where it held one."""
    notices: list[str]
    """What was put right while it was read."""


class Question(Wire):
    """Concepts to look for in a volume."""

    volume_id: str = Field(min_length=1, max_length=100)
    """Of a volume of this client."""
    concepts: list[str] = Field(min_length=1)
    """Phrases such as "left kidney", each at most once."""
    settings: SegmentSettings = Field(default_factory=SegmentSettings)
    """How to segment; what is left out has its default."""
    model: str = Field(default="auto", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """Name of an installed model; auto is the one that is loaded."""

    @field_validator("concepts")
    @classmethod
    def _has_no_control_characters(cls, concepts: list[str]) -> list[str]:
        if any(not phrase.isprintable() for phrase in concepts):
            raise ValueError("expected words, got a control character; type what to look for")
        return concepts


class JobProgress(Wire):
    """How far a job is."""

    stage: str
    """What it does now."""
    done: int
    """Of this stage: slices, or bytes of a download."""
    total: int
    """Of this stage, all."""
    fraction: float
    """Of the whole job, 0 to 1."""
    seconds_left: float | None
    """Estimated; null where it is not known."""


class JobError(Wire):
    """Why a job failed."""

    code: str
    """For programs."""
    message: str
    """For people."""


class Finding(RootModel[dict[str, Any]]):
    """The answer to one concept, as Resources/report.schema.json describes it."""


class SegmentEntry(Wire):
    """A mask of the result: of a found concept, or of one of its objects."""

    index: int
    """Its place; the mask is at /v1/jobs/{id}/segments/{index}/mask."""
    finding: int
    """Place of its finding."""
    name: str
    """The concept, with a number where it has several objects."""
    instance: int | None
    """Number of the object, from 1; null where objects were not kept apart."""
    colour: tuple[int, int, int]
    """RGB, 0 to 255."""
    codes: Codes
    """Terminology."""
    voxels: int
    """Size of the mask."""
    box_kji: tuple[int, int, int, int, int, int] | None
    """Half-open box k0, k1, j0, j1, i0, i1 around it."""


class Job(Wire):
    """Something that was asked for, and what became of it."""

    job_id: str
    """Its name."""
    kind: JobKind
    """What is done."""
    state: JobState
    """How it stands."""
    position: int | None
    """Jobs that come before it; null unless it is queued."""
    volume_id: str | None
    """Of which volume; null for jobs on models."""
    concepts: list[str]
    """As they were asked."""
    settings: dict[str, Any]
    """As they were asked."""
    model: str
    """As it was asked."""
    progress: JobProgress
    """How far it is."""
    created: str
    """When it was asked for, ISO 8601 in UTC."""
    started: str | None
    """When it began."""
    ended: str | None
    """When it ended."""
    error: JobError | None
    """Why it failed; null unless it did."""
    notices: list[str]
    """What a person should know of how it was done."""
    findings: list[Finding]
    """An answer for each concept that has ended, in the order asked; all of them once the job is done."""
    segments: list[SegmentEntry]
    """The masks; empty until the job is done."""
    estimate: dict[str, Any] | None
    """Of a job of kind estimate: seconds, host_more_mb, device_peak_mb and the rest of it."""
