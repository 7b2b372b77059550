"""``medsam3 segment``: from a file and typed concepts to a segmentation, a report and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib import cli_options as options
from MedicalSAM3Lib.errors import NothingFound, OutputError, RunError, SettingsError

if TYPE_CHECKING:
    from MedicalSAM3Lib.config import SegmentSettings
    from MedicalSAM3Lib.report import RunRecord
    from MedicalSAM3Lib.structures import Finding, Segmentation, Volume

_DOUBLE_SUFFIXES = (".nii.gz", ".seg.nrrd")


@dataclass(frozen=True, slots=True)
class Source:
    """What to read: a path and, where it holds several images, which one."""

    path: Path
    series: str | None = None
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a run writes, and the archive it sends to; None where it was not asked to."""

    segmentation: Path
    report: Path | None
    preview: Path | None
    confidence: Path | None = None
    surface: Path | None = None
    send: str | None = None

    def paths(self) -> list[Path]:
        """All files that were named for the run to write."""
        paths = (self.segmentation, self.report, self.preview, self.confidence, self.surface)
        return [path for path in paths if path is not None]


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


def choose_outputs(
    source: Path,
    segmentation: Path | None,
    report: Path | None,
    preview: Path | None,
    confidence: Path | None = None,
    surface: Path | None = None,
    send: str | None = None,
) -> Outputs:
    """Settle and check where a run writes, before anything is computed.

    Raises:
        SettingsError: What is to be sent is no DICOM object, or its address none of an archive.
        OutputError: A file cannot be written there, is the input itself, is named twice, or the name chosen
            for the user is taken (what a user names is replaced, what we name never replaces anything).
        SettingsError: The packages for surfaces are missing.
    """
    from MedicalSAM3Lib.files import check_output, is_dicom_result
    from MedicalSAM3Lib.outputs import CONFIDENCE_SUFFIXES, sidecar_path

    if segmentation is None:
        segmentation = default_output(source)
        if segmentation.exists():
            raise OutputError(f"{segmentation} is there already: choose the result's name with --output.")
    outputs = Outputs(segmentation, report, preview, confidence, surface, send)
    # A label map brings its sidecar, whose name a report could take.
    resolved = [path.resolve() for path in (*outputs.paths(), sidecar_path(segmentation))]
    if source.resolve() in resolved:
        raise OutputError(f"The output {source.name} is the input itself: choose another name.")
    if len(set(resolved)) < len(resolved):
        raise OutputError("Two outputs have the same name: choose another for one of them.")
    check_output(segmentation)
    if send is not None:
        from MedicalSAM3Lib.dicom_send import check_send

        if not is_dicom_result(segmentation):
            raise SettingsError("send: expected a DICOM result to send; name it with -o, such as out.seg.dcm.")
        check_send(send)
    for path, suffixes in ((report, (".json",)), (preview, (".png",)), (confidence, CONFIDENCE_SUFFIXES)):
        if path is not None:
            check_output(path, suffixes)
    if surface is not None:
        from MedicalSAM3Lib.surface import check_surface

        check_surface(surface)
    return outputs


def default_output(source: Path) -> Path:
    """Name of the result when none was given. A folder's name may be a patient's, so it is not used."""
    name = source.name
    for suffix in (*_DOUBLE_SUFFIXES, source.suffix):
        name = name.removesuffix(suffix)
    return Path(f"{name}.seg.nrrd" if name and not source.is_dir() else "segmentation.seg.nrrd")


def run(
    source: Source, concepts: Sequence[str], outputs: Outputs, model: str, settings: SegmentSettings, *, quiet: bool
) -> None:
    """Read, load, segment, write, show: the outline of the command.

    Raises:
        MedicalSAM3Error: What a stage cannot do; see ``errors``.
        RunError: A concept failed; the results of the others are written.
    """
    from MedicalSAM3Lib import cli_show

    notices: list[str] = []
    with cli_show.waiting("Reading the image", quiet=quiet):
        volume = read_source(source, outputs, notices.append)
    check_outputs(outputs, volume)
    from MedicalSAM3Lib import pipeline, registry  # torch: only once the image is known to be good
    from MedicalSAM3Lib.interpret import read_all
    from MedicalSAM3Lib.resources import resource
    from MedicalSAM3Lib.text import load_tokenizer

    readings = read_all(concepts, verbatim=settings.verbatim)
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


def check_outputs(outputs: Outputs, volume: Volume) -> None:
    """Check, before anything is computed, that what was asked for can be made of this volume.

    Raises:
        OutputError: A PNG mask of a volume, or a surface of a picture.
    """
    from MedicalSAM3Lib.files import check_output

    check_output(outputs.segmentation, volume=volume)
    if outputs.surface is not None:
        from MedicalSAM3Lib.surface import check_surface

        check_surface(outputs.surface, volume)


def read_source(source: Source, outputs: Outputs, on_notice: Callable[[str], None]) -> Volume:
    """The volume; with a gantry tilt only where all that is written of it lies on its own slices.

    Raises:
        InputError: It cannot be read or used.
        GeometryError: Its axes are not at right angles.
    """
    from MedicalSAM3Lib import files

    tilted = files.is_dicom_result(outputs.segmentation) and outputs.confidence is None and outputs.surface is None
    return files.read_volume(source.path, series=source.series, frame=source.frame, tilted=tilted, on_notice=on_notice)


def write_outputs(outputs: Outputs, volume: Volume, segmentation: Segmentation, record: RunRecord) -> list[str]:
    """As ``write_files``, of a run in this process."""
    from MedicalSAM3Lib.report import make_report

    return write_files(outputs, volume, segmentation, make_report(record))


def write_files(outputs: Outputs, volume: Volume, segmentation: Segmentation, report: Mapping[str, Any]) -> list[str]:
    """Write what was asked for; each file appears whole or not at all.

    Returns:
        One line a file, for the user.

    Raises:
        OutputError: A file cannot be written.
        ServerError: The archive did not keep the segmentation, which is written all the same.
    """
    from MedicalSAM3Lib import preview
    from MedicalSAM3Lib.outputs import write_confidence
    from MedicalSAM3Lib.report import save_report

    is_there = _write_segmentation(outputs.segmentation, volume, segmentation, report)
    if outputs.report is not None:
        save_report(outputs.report, report)
    if outputs.preview is not None:
        preview.write_preview(outputs.preview, volume, segmentation)
    if outputs.confidence is not None:
        write_confidence(outputs.confidence, segmentation)
    written = [path for path in outputs.paths() if path not in (outputs.segmentation, outputs.surface)]
    if outputs.surface is not None and any(finding.state == "found" for finding in segmentation.findings):
        from MedicalSAM3Lib.surface import write_surface

        written += write_surface(outputs.surface, segmentation)
    if not is_there:
        nothing = f"Nothing was found, and a DICOM object cannot be empty: {outputs.segmentation} is not there."
        return [nothing, *(f"Wrote {path}" for path in written)]
    lines = [f"Wrote {path}" for path in (outputs.segmentation, *written)]
    if outputs.send is not None:
        from MedicalSAM3Lib.dicom_send import send

        send(outputs.segmentation, outputs.send)
        lines.append(f"Sent {outputs.segmentation.name} to the archive.")
    return lines


def _write_segmentation(path: Path, volume: Volume, segmentation: Segmentation, report: Mapping[str, Any]) -> bool:
    """Write it; False where nothing was found and the format cannot say so."""
    from MedicalSAM3Lib import files

    model = f"{report['model']['name']} {report['model']['weights_hash'][:12]}"
    try:
        files.write_segmentation(path, segmentation, volume, model)
    except NothingFound:
        # An answer, and the report has it; a file of an earlier run must not pass for the result of this one.
        path.unlink(missing_ok=True)
        return False
    return True


def raise_failed(findings: Sequence[Finding], outputs: Outputs) -> None:
    """Raise an error for what could not be done, so that the exit code tells; "not found" is an answer.

    Raises:
        RunError: A concept failed.
        OutputError: There is nothing of which to make the surface that was asked for.
    """
    failed = [finding for finding in findings if finding.state == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {len(findings)} concepts failed; '{failed[0].phrase}': {failed[0].reason}")
    if outputs.surface is not None:
        from MedicalSAM3Lib.surface import check_found

        check_found(outputs.surface, findings)
