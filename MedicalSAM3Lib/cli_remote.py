"""``medsam3 segment --server``: the same command, options and files, while a server does the work. Loads no torch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MedicalSAM3Lib.client import Client
from MedicalSAM3Lib.client_events import Event
from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.structures import OnProgress, Progress, Segmentation, Volume

if TYPE_CHECKING:
    from MedicalSAM3Lib.cli_segment import Outputs, Source
    from MedicalSAM3Lib.config import SegmentSettings

TOKEN_VARIABLE = "MEDSAM3_SERVER_TOKEN"
_PICTURES = ("RGB", "GREY")


@dataclass(frozen=True, slots=True)
class Remote:
    """Which server, and what it is asked with.

    Attributes:
        url: Its address.
        token_file: File whose first line is the token, or the connection file of a local server; None = the
            environment's, or none.
        certificate: File (PEM) that its certificate must descend from; None = the system's.
    """

    url: str
    token_file: Path | None = None
    certificate: Path | None = None

    def connect(self) -> Client:
        """A client of it.

        Raises:
            SettingsError: The token's file cannot be read.
        """
        return Client(self.url, read_token(self.token_file), certificate=self.certificate)


def read_token(file: Path | None) -> str | None:
    """The token of a file, else that of the environment, else None.

    Raises:
        SettingsError: The file cannot be read or holds none.
    """
    import os

    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"token_file: expected a text file, {file.name} cannot be read.") from error
    if text.startswith("{"):
        try:
            return str(json.loads(text)["token"])
        except (ValueError, KeyError) as error:
            raise SettingsError(
                f"token_file: expected a connection file with a token, {file.name} has none."
            ) from error
    words = text.splitlines()[0].split() if text else []
    if len(words) != 1:
        raise SettingsError(f"token_file: expected one token in the first line of {file.name}, got {len(words)} words.")
    return words[0]


def run(
    remote: Remote,
    source: Source,
    concepts: Sequence[str],
    outputs: Outputs,
    model: str,
    settings: SegmentSettings,
    *,
    quiet: bool,
) -> None:
    """Read, send, wait, fetch, write, show: the outline of the command.

    Raises:
        MedicalSAM3Error: What a stage cannot do, here or on the server.
        RunError: A concept failed; the results of the others are written.
    """
    from MedicalSAM3Lib import cli_show
    from MedicalSAM3Lib.cli_segment import check_outputs, raise_failed, read_source, write_files
    from MedicalSAM3Lib.interpret import check_concepts

    client, notices = remote.connect(), list[str]()
    with cli_show.waiting("Reading the image", quiet=quiet):
        volume = read_source(source, outputs, notices.append)
    check_outputs(outputs, volume)
    check_concepts(concepts)
    told = client.check()
    volume_id = _send(client, source, volume, quiet)
    job_id = client.submit(volume_id, concepts, settings.model_dump(mode="json"), model)["job_id"]
    try:
        with cli_show.progress_bars(quiet=quiet) as on_progress:
            job = client.wait(job_id, _shown(on_progress))
        report = client.report(job_id)
        segmentation = _fetch(client, job, volume, settings)
    except KeyboardInterrupt:
        client.cancel(job_id)
        raise
    finally:
        client.forget(job_id)
    report["input"]["name"] = volume.name
    written = write_files(outputs, volume, segmentation, report)
    if not quiet:
        cli_show.show_findings(segmentation.findings, is_2d=volume.is_2d)
        cli_show.show_lines([*written, *notices, *job["notices"], *told, cli_show.RESEARCH_NOTICE])
    raise_failed(segmentation.findings, outputs)


def _send(client: Client, source: Source, volume: Volume, quiet: bool) -> str:
    """Send the voxels and nothing else of the file; a picture goes as it is, its colours may be finer than a byte."""
    from MedicalSAM3Lib import cli_show

    with cli_show.byte_bar("upload", quiet=quiet) as on_bytes:
        if volume.modality in _PICTURES and source.path.is_file():
            return str(client.upload_file(source.path, on_bytes, frame=source.frame)["volume_id"])
        told = client.upload(
            volume.array,
            volume.ijk_to_lps,
            modality=volume.modality,
            is_picture=volume.is_2d,
            on_bytes=on_bytes,
        )
        return str(told["volume_id"])


def _shown(on_progress: OnProgress) -> Any:
    def on_event(event: Event) -> None:
        if event.kind == "progress" and event.data["total"]:
            on_progress(Progress(event.data["stage"], event.data["done"], event.data["total"]))

    return on_event


def _fetch(client: Client, job: dict[str, Any], volume: Volume, settings: SegmentSettings) -> Segmentation:
    """The result as the library would have made it: labels and layers are those of the findings."""
    from MedicalSAM3Lib.files import read_volume
    from MedicalSAM3Lib.result_files import finding_of

    findings = tuple(finding_of(finding) for finding in job["findings"])
    num_layers = max([1, *(finding.layer + 1 for finding in findings)])
    layers = tuple(np.zeros(volume.shape_kji, np.uint16) for _ in range(num_layers))
    for segment in job["segments"]:
        finding, number = findings[segment["finding"]], segment["instance"]
        label = finding.label if number is None else finding.objects[number - 1].label
        layers[finding.layer][client.mask(job["job_id"], segment, volume.shape_kji)] = label
    confidence = None
    if settings.confidence_map:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "confidence.nii.gz"
            client.save_confidence(job["job_id"], path)
            confidence = read_volume(path).array
    return Segmentation(layers, volume.ijk_to_lps, findings, confidence)
