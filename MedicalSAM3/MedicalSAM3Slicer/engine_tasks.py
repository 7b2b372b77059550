"""What else an engine can be asked for: a test, an estimate, its models, memory. Each is the work of a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from MedicalSAM3Lib.client_events import Event

from .connection import Connection
from .engine_child import runChild
from .engine_work import Question, send, stageText
from .task import Progress, ThreadTask
from .volume_input import VolumeInput
from .weights_file import Weights


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Attributes:
        seconds: Time, about.
        memoryMb, freeMb: Main memory that it takes and that is free, in 10^6 bytes; None if unknown.
        deviceMb: Memory of the GPU that it takes; None on a processor.
        device: Where it would be computed.
    """

    seconds: float
    memoryMb: float | None
    freeMb: float | None
    deviceMb: float | None
    device: str

    @property
    def sentence(self) -> str:
        """All of it for the panel."""
        parts = [_("About {time}").format(time=timeText(self.seconds))]
        if self.memoryMb is not None:
            parts.append(_("{size:.1f} GB of memory").format(size=self.memoryMb / 1000))
        if self.deviceMb is not None:
            parts.append(_("{size:.1f} GB on the GPU").format(size=self.deviceMb / 1000))
        line = ", ".join(parts) + "."
        if self.device == "cpu":
            line += " " + _("It runs on the processor, which is slow; a GPU or a remote server is many times faster.")
        if self.memoryMb is not None and self.freeMb is not None and self.memoryMb > self.freeMb:
            line += " " + _("Only {size:.1f} GB are free: choose an ROI or fewer slices.").format(
                size=self.freeMb / 1000
            )
        return line


def timeText(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    return _("{count} min").format(count=round(seconds / 60))


def test(task: ThreadTask, connection: Connection) -> list[str]:
    """Reach the engine and ask whether it fits; what a user should know."""
    client = connection.client(task)
    told = client.capabilities()
    model = (told.get("model") or {}).get("name") or _("no model yet")
    line = _("The engine answers: {model} on {devices}.").format(model=model, devices=", ".join(told["devices"]))
    return [line, *client.check()]


def estimate(task: ThreadTask, connection: Connection, volume: VolumeInput, question: Question) -> Estimate:
    """Ask what a run would take; the volume is sent if the engine has it not yet."""
    client = connection.client(task)
    volumeId = connection.sent.get(volume.key) or send(task, connection, client, volume)
    task.report(Progress(_("Estimating")))
    told = client.estimate(
        volumeId, question.concepts, question.settings, question.model,
        lambda jobId: task.whenCancelled(lambda: client.forget(jobId)),
    )  # fmt: skip
    return Estimate(
        float(told["seconds"]),
        told.get("host_more_mb"),
        told.get("host_free_mb"),
        told.get("device_peak_mb"),
        told.get("device", ""),
    )


def freeMemory(task: ThreadTask, connection: Connection) -> int:
    """Let an engine that runs forget its features; how many bytes that freed."""
    client = connection.running()
    return 0 if client is None else client.drop_features()


def models(task: ThreadTask, connection: Connection) -> list[dict[str, Any]]:
    """The models that the engine knows."""
    return list(connection.client(task).models())  # type: ignore[arg-type]


def download(task: ThreadTask, connection: Connection, name: str, acceptLicence: bool) -> dict[str, Any]:
    """Let the engine download a model."""
    return connection.client(task).download_model(name, lambda event: _hear(task, event), accept_licence=acceptLicence)


def verify(task: ThreadTask, connection: Connection, name: str) -> dict[str, Any]:
    """Let the engine check the files of a model."""
    return connection.client(task).verify_model(name, lambda event: _hear(task, event))


def remove(task: ThreadTask, connection: Connection, name: str) -> dict[str, Any]:
    """Let the engine remove a model."""
    return connection.client(task).remove_model(name)


def importWeights(task: ThreadTask, connection: Connection, weights: Weights, base: str) -> str:
    """Install weights from a file or folder of this computer for the engine that runs here; the name.

    Not by the engine: a path is no business of a server.
    """
    stages = {"read": _("Reading the weights"), "write": _("Writing the model")}
    task.report(Progress(stages["read"]))
    words = ["import", weights.name, str(weights.source), base, weights.licence]
    runChild(task, connection.settings, "model_jobs", words, lambda line: task.report(Progress(stages[line["stage"]])))
    return weights.name


def _hear(task: ThreadTask, event: Event) -> None:
    task.check()
    if event.kind == "progress":
        data = event.data
        stage, left = stageText(data["stage"]), data.get("seconds_left")
        task.report(Progress(stage, data["fraction"], data["done"], data["total"], left))
