"""``medsam3 segment``: from a file and typed concepts to a segmentation, a report and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib import cli_options as options
from MedicalSAM3Lib.errors import OutputError, RunError, SettingsError

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
    """Where a run writes; None where it was not asked to."""

    segmentation: Path
    report: Path | None
    preview: Path | None
    confidence: Path | None = None

    def paths(self) -> list[Path]:
        """All files that the run will write."""
        return [path for path in (self.segmentation, self.report, self.preview, self.confidence) if path is not None]

    def written(self) -> list[str]:
        """One line a file, for the user."""
        return [f"Wrote {path}" for path in self.paths()]


def segment(
    input_path: options.InputPath,
    concept: options.Concepts,
    output: options.OutputPath = None,
    report: options.ReportPath = None,
    preview: options.PreviewPath = None,
    confidence: options.ConfidencePath = None,
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
    cannot be used; 3 when the run failed; 130 when it was cancelled (Ctrl-C).
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
        rule=rule,
        confidence_map=confidence is not None,
        presence_threshold=presence_threshold,
        memory_budget_gb=memory_budget,
    )
    outputs = choose_outputs(input_path, output, report, preview, confidence)
    source = Source(input_path, series, frame)
    if server is None:
        if token_file or certificate:
            raise SettingsError("Expected --token-file and --certificate with --server only; add it or leave them out.")
        run(source, concept, outputs, model, settings, quiet=quiet)
        return
    from MedicalSAM3Lib import cli_remote

    remote = cli_remote.Remote(server, token_file, certificate)
    cli_remote.run(remote, source, concept, outputs, model, settings, quiet=quiet)


def choose_outputs(
    source: Path,
    segmentation: Path | None,
    report: Path | None,
    preview: Path | None,
    confidence: Path | None = None,
) -> Outputs:
    """Settle and check where a run writes, before anything is computed.

    Raises:
        OutputError: A file cannot be written there, is the input itself, is named twice, or the name chosen
            for the user is taken (what a user names is replaced, what we name never replaces anything).
    """
    from MedicalSAM3Lib.files import check_output
    from MedicalSAM3Lib.outputs import CONFIDENCE_SUFFIXES, sidecar_path

    if segmentation is None:
        segmentation = default_output(source)
        if segmentation.exists():
            raise OutputError(f"{segmentation} is there already: choose the result's name with --output.")
    outputs = Outputs(segmentation, report, preview, confidence)
    # A label map brings its sidecar, whose name a report could take.
    resolved = [path.resolve() for path in (*outputs.paths(), sidecar_path(segmentation))]
    if source.resolve() in resolved:
        raise OutputError(f"The output {source.name} is the input itself: choose another name.")
    if len(set(resolved)) < len(resolved):
        raise OutputError("Two outputs have the same name: choose another for one of them.")
    check_output(segmentation)
    for path, suffixes in ((report, (".json",)), (preview, (".png",)), (confidence, CONFIDENCE_SUFFIXES)):
        if path is not None:
            check_output(path, suffixes)
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
    from MedicalSAM3Lib import cli_show, files

    notices: list[str] = []
    with cli_show.waiting("Reading the image", quiet=quiet):
        volume = files.read_volume(source.path, series=source.series, frame=source.frame, on_notice=notices.append)
    files.check_output(outputs.segmentation, volume=volume)
    from MedicalSAM3Lib import pipeline, registry  # torch: only once the image is known to be good
    from MedicalSAM3Lib.concepts import check_concepts
    from MedicalSAM3Lib.resources import resource
    from MedicalSAM3Lib.text import load_tokenizer

    check_concepts(concepts)
    # All models read the same vocabulary: a concept that is too long need not wait for gigabytes of weights.
    load_tokenizer(resource("tokenizer")).encode(concepts)
    with cli_show.waiting("Loading the model", quiet=quiet):
        loaded = registry.load_model(model, device=settings.device, speed=settings.speed)
    with cli_show.progress_bars(quiet=quiet) as on_progress:
        segmentation, record = pipeline.segment_with_report(volume, concepts, loaded, settings, on_progress)
    write_outputs(outputs, volume, segmentation, record)
    if not quiet:
        cli_show.show_findings(segmentation.findings, is_2d=volume.is_2d)
        cli_show.show_lines([*outputs.written(), *notices, *record.notices, *cli_show.model_notices(loaded)])
    raise_failed(segmentation.findings)


def write_outputs(outputs: Outputs, volume: Volume, segmentation: Segmentation, record: RunRecord) -> None:
    """As ``write_files``, of a run in this process."""
    from MedicalSAM3Lib.report import make_report

    write_files(outputs, volume, segmentation, make_report(record))


def write_files(outputs: Outputs, volume: Volume, segmentation: Segmentation, report: Mapping[str, Any]) -> None:
    """Write what was asked for; each file appears whole or not at all.

    Raises:
        OutputError: A file cannot be written.
    """
    from MedicalSAM3Lib import files, preview
    from MedicalSAM3Lib.outputs import write_confidence
    from MedicalSAM3Lib.report import save_report

    files.write_segmentation(outputs.segmentation, segmentation, volume)
    if outputs.report is not None:
        save_report(outputs.report, report)
    if outputs.preview is not None:
        preview.write_preview(outputs.preview, volume, segmentation)
    if outputs.confidence is not None:
        write_confidence(outputs.confidence, segmentation)


def raise_failed(findings: Sequence[Finding]) -> None:
    """Raise ``RunError`` when a concept failed, so that the exit code tells; "not found" is an answer."""
    failed = [finding for finding in findings if finding.state == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {len(findings)} concepts failed; '{failed[0].phrase}': {failed[0].reason}")
