"""What the thread of a run does: send the volume, ask, follow, fetch the masks. Touches no scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from MedicalSAM3Lib.client import Client
from MedicalSAM3Lib.client_events import Event
from MedicalSAM3Lib.errors import NotThere
from MedicalSAM3Lib.geometry import canonical_of, input_axis

from .connection import Connection
from .task import Progress, ThreadTask
from .volume_input import VolumeInput

SENDING = 0.1
"""Share of a run that the bar gives to sending; what is known already takes none of it."""


@dataclass(frozen=True)
class Question:
    """What the engine is asked of one volume: phrases, settings as plain values, model."""

    concepts: tuple[str, ...]
    settings: Mapping[str, Any]
    model: str = "auto"


@dataclass(frozen=True)
class MaskResult:
    """A mask of the result: of a found concept, or of one of its objects.

    Attributes:
        finding: Place of its concept among those asked.
        name: The concept, with a number where it has several objects.
        colour: RGB, 0..255.
        codes: "category", "type", "modifier", each scheme^value^meaning or empty.
        box: Half-open ``(k0, k1, j0, j1, i0, i1)`` in voxels of the volume.
        crop: Boolean, of the box's shape, which is the smallest.
        voxels: How many are set.
    """

    finding: int
    name: str
    colour: tuple[int, int, int]
    codes: Mapping[str, str]
    box: tuple[int, int, int, int, int, int]
    crop: np.ndarray
    voxels: int


@dataclass(frozen=True)
class Answer:
    """What the engine found in one volume.

    Attributes:
        findings: One for each concept, in the order asked, as in ``report.schema.json``.
        masks: Those of what was found; none of them is empty.
        axis: Axis (0 = i, 1 = j, 2 = k) along which the findings number slices.
        shapeKji: Of the volume.
        model: "name weights-hash" of the model that answered.
        notices: Sentences that a user should know.
    """

    findings: tuple[Mapping[str, Any], ...]
    masks: tuple[MaskResult, ...]
    axis: int
    shapeKji: tuple[int, int, int]
    model: str
    notices: tuple[str, ...]


def ask(
    task: ThreadTask, connection: Connection, volume: VolumeInput, question: Question, span: tuple[float, float]
) -> Answer:
    """Have a volume segmented.

    Args:
        span: From which to which fraction of the task's progress this goes.

    Raises:
        UserError, MedicalSAM3Error, OSError: It cannot be done; ``Connection.explain`` says it in a sentence.
        TaskCancelled: The engine was told.
    """
    client = connection.client(task)
    jobId = submit(task, connection, client, volume, question, span)
    try:
        task.whenCancelled(lambda: client.forget(jobId))
        job = client.wait(jobId, lambda event: _hear(task, event, span))
        return _fetch(task, client, job, volume)
    finally:
        client.forget(jobId)


def submit(
    task: ThreadTask,
    connection: Connection,
    client: Client,
    volume: VolumeInput,
    question: Question,
    span: tuple[float, float] = (0.0, 1.0),
) -> str:
    """Ask, with the volume that the engine has or else is sent now; return the job's name."""

    def submitFor(volumeId: str) -> str:
        return str(client.submit(volumeId, question.concepts, question.settings, question.model)["job_id"])

    known = connection.sent.get(volume.key)
    if known is not None:
        try:
            return submitFor(known)
        except NotThere as error:  # the engine keeps volumes for some time only
            if error.code != "volume":
                raise
    return submitFor(send(task, connection, client, volume, span))


def send(
    task: ThreadTask,
    connection: Connection,
    client: Client,
    volume: VolumeInput,
    span: tuple[float, float] = (0.0, 1.0),
) -> str:
    """Send a volume; return its name at the engine."""
    task.report(Progress(_("Preparing the volume"), span[0]))

    def onBytes(done: int, total: int) -> None:
        fraction = span[0] + (span[1] - span[0]) * SENDING * done / max(total, 1)
        task.report(Progress(_("Sending the volume"), fraction, done, total))

    array = volume.copy()
    told = client.upload(
        array, volume.ijkToLps, modality=volume.modality, is_picture=volume.isPicture, on_bytes=onBytes
    )
    connection.sent[volume.key] = told["volume_id"]
    return str(told["volume_id"])


def stageText(stage: str) -> str:
    """What the engine does, for users."""
    known = {
        "starting": _("Starting"),
        "queued": _("Waiting for the engine"),
        "features": _("Looking at the slices"),
        "detection": _("Finding the concepts"),
        "tracking": _("Following objects through the slices"),
        "vote": _("Comparing the views"),
        "fusion": _("Making masks"),
        "labels": _("Making masks"),
        "objects": _("Separating objects"),
        "download": _("Downloading"),
    }
    return known.get(stage, stage)


def _hear(task: ThreadTask, event: Event, span: tuple[float, float]) -> None:
    data = event.data
    if event.kind == "queued":
        task.report(Progress(_("Waiting for the engine"), span[0] + (span[1] - span[0]) * SENDING))
    elif event.kind == "progress":
        fraction = span[0] + (span[1] - span[0]) * (SENDING + (1.0 - SENDING) * data["fraction"])
        progress = Progress(stageText(data["stage"]), fraction, data["done"], data["total"], data.get("seconds_left"))
        task.report(progress)
    elif event.kind == "finding":
        task.post("finding", data["finding"])
    else:
        task.check()


def _fetch(task: ThreadTask, client: Client, job: Mapping[str, Any], volume: VolumeInput) -> Answer:
    task.report(Progress(_("Fetching the masks"), task.progress.fraction))
    report = client.report(job["job_id"])
    shape = volume.shapeKji
    masks = []
    for segment in job["segments"]:
        task.check()
        if segment["box_kji"] is None:
            continue
        mask = client.mask(job["job_id"], segment, shape)
        k0, k1, j0, j1, i0, i1 = box = tuple(segment["box_kji"])
        crop = mask[k0:k1, j0:j1, i0:i1].copy()
        about = segment["finding"], segment["name"], tuple(segment["colour"]), segment["codes"]
        masks.append(MaskResult(*about, box, crop, segment["voxels"]))
    model = report.get("model") or {}
    return Answer(
        findings=tuple(job["findings"]),
        masks=tuple(masks),
        axis=2 - input_axis(canonical_of(volume.ijkToLps), report["run"]["axis"]),
        shapeKji=shape,
        model=f"{model.get('name', '')} {model.get('weights_hash', '')[:12]}".strip(),
        notices=(*client.check(), *job["notices"]),  # by now the engine knows which model it has
    )
