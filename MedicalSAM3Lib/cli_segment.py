"""``medsam3 segment``: from a file and typed concepts to a segmentation, a report and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from MedicalSAM3Lib import cli_options as options
from MedicalSAM3Lib.cli_outputs import Outputs, check_outputs, choose_outputs, raise_failed, write_outputs
from MedicalSAM3Lib.errors import SettingsError

if TYPE_CHECKING:
    from MedicalSAM3Lib.config import SegmentSettings
    from MedicalSAM3Lib.structures import Volume


@dataclass(frozen=True, slots=True)
class Source:
    """What to read: a path and, where it holds several images, which one."""

    path: Path
    series: str | None = None
    frame: int | None = None


def segment(
    input_path: options.InputPath,
    concept: options.Concepts = None,
    preset: options.Preset = None,
    output: options.OutputPath = None,
    report: options.ReportPath = None,
    preview: options.PreviewPath = None,
    confidence: options.ConfidencePath = None,
    surface: options.SurfacePath = None,
    send: options.Send = None,
    model: options.ModelName = "auto",
    device: options.Device = "auto",
    speed: options.Speed = "balanced",
    window: options.Window = "auto",
    axis: options.Axis = "auto",
    mode: options.Mode = "auto",
    slices: options.Slices = None,
    roi: options.Roi = None,
    overlap: options.Overlap = "exclusive",
    instances: options.Instances = False,
    verbatim: options.Verbatim = False,
    rule: options.Rule = "union",
    presence_threshold: options.Threshold = None,
    memory_budget: options.MemoryBudget = None,
    series: options.Series = None,
    frame: options.Frame = None,
    server: options.Server = None,
    token_file: options.TokenFile = None,
    certificate: options.Certificate = None,
    quiet: options.Quiet = False,
) -> None:
    """Segment an image or a volume by typed concepts.

    Exit code 0 when every concept has its answer, also when that is "not found"; 2 when the call or the input
    cannot be used, or nothing was found of which to make a surface; 3 when the run failed; 130 when it was
    cancelled (Ctrl-C).
    """
    from MedicalSAM3Lib.config import make_settings

    settings = make_settings(
        device=device,
        speed=speed,
        window=window,
        axis=axis,
        mode=mode,
        slices=options.parse_numbers("slices", slices, ":", "A:B"),
        roi=options.parse_numbers("roi", roi, ",", "I0,I1,J0,J1,K0,K1"),
        overlap=overlap,
        instances=instances,
        verbatim=verbatim,
        rule=rule,
        confidence_map=confidence is not None,
        presence_threshold=presence_threshold,
        memory_budget_gb=memory_budget,
    )
    concepts = options.asked_concepts(concept, preset)
    outputs = choose_outputs(input_path, output, report, preview, confidence, surface, send)
    work = _here_or_there(server, token_file, certificate)
    work(Source(input_path, series, frame), concepts, outputs, model, settings, quiet=quiet)


def _here_or_there(server: str | None, token_file: Path | None, certificate: Path | None) -> Callable[..., None]:
    """``run``, or the same work done by a server.

    Raises:
        SettingsError: Something that only a server needs, without one.
    """
    if server is None:
        if token_file or certificate:
            raise SettingsError("Expected --token-file and --certificate with --server only; add it or leave them out.")
        return run
    from MedicalSAM3Lib import cli_remote

    return partial(cli_remote.run, cli_remote.Remote(server, token_file, certificate))


def run(
    source: Source, concepts: Sequence[str], outputs: Outputs, model: str, settings: SegmentSettings, *, quiet: bool
) -> None:
    """Read, load, segment, write, show: the outline of the command.

    Raises:
        MedicalSAM3Error: What a stage cannot do; see ``errors``.
        RunError: A concept failed; the results of the others are written.
    """
    from MedicalSAM3Lib import cli_show, registry
    from MedicalSAM3Lib.interpret import read_all

    readings = read_all(concepts, verbatim=settings.verbatim)
    registry.resolve(model)
    notices: list[str] = []
    with cli_show.waiting("Reading the image", quiet=quiet):
        volume = read_source(source, outputs, notices.append)
    check_outputs(outputs, volume)
    from MedicalSAM3Lib import pipeline  # torch, which takes long to load: only once all else is known to be good
    from MedicalSAM3Lib.resources import resource
    from MedicalSAM3Lib.text import load_tokenizer

    # All models read the same words: a concept that is too long need not wait for gigabytes of weights.
    load_tokenizer(resource("tokenizer")).encode([reading.asked for reading in readings])
    with cli_show.waiting("Loading the model", quiet=quiet):
        loaded = registry.load_model(model, device=settings.device, speed=settings.speed)
    with cli_show.progress_bars(quiet=quiet) as on_progress:
        segmentation, record = pipeline.segment_with_report(volume, concepts, loaded, settings, on_progress)
    written = write_outputs(outputs, volume, segmentation, record)
    if not quiet:
        cli_show.show_findings(segmentation.findings, is_2d=volume.is_2d)
        cli_show.show_lines([*written, *notices, *record.notices, *cli_show.model_notices(loaded)])
    raise_failed(segmentation.findings, outputs)


def read_source(source: Source, outputs: Outputs, on_notice: Callable[[str], None]) -> Volume:
    """The volume; with a gantry tilt only where all that is written of it lies on its own slices.

    Raises:
        InputError: It cannot be read or used.
        GeometryError: Its axes are not at right angles.
    """
    from MedicalSAM3Lib import files

    tilted = files.is_dicom_result(outputs.segmentation) and outputs.confidence is None and outputs.surface is None
    return files.read_volume(source.path, series=source.series, frame=source.frame, tilted=tilted, on_notice=on_notice)
