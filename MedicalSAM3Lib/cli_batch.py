"""``medsam3 batch``: from many images and typed concepts to a folder a case, tables and a page."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from MedicalSAM3Lib import cli_options as options
from MedicalSAM3Lib.errors import RunError, WeightsError

if TYPE_CHECKING:
    from MedicalSAM3Lib.batch_cases import Cohort
    from MedicalSAM3Lib.batch_job import Outcome, Plan
    from MedicalSAM3Lib.config import SegmentSettings
    from MedicalSAM3Lib.engine_port import Engines

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUTS...",
        help="Files, folders (also DICOM trees), patterns, .txt lists, or .csv with columns image, case, concepts.",
    ),
]
Out = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", rich_help_panel=options.FILES, help="Folder of the results.")
]
Retry = Annotated[
    bool, typer.Option("--retry-failed", rich_help_panel=options.RUN, help="Try again what failed before.")
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, rich_help_panel=options.RUN, help="Processes that segment, over all devices.")
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="D,D",
        rich_help_panel=options.RUN,
        help="cpu, cuda:N...; several, as cuda:0,cuda:1, work at once.",
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", min=0, rich_help_panel=options.RUN, help="Of the CPU a process; 0 shares the cores.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", rich_help_panel=options.RUN, help="Segment on a Ray cluster; 'local' starts one here."
    ),
]


def batch(
    inputs: Inputs,
    output: Out,
    concept: options.Concepts = None,
    preset: options.Preset = None,
    retry_failed: Retry = False,
    workers: Workers = 1,
    devices: Devices = None,
    threads: Threads = 0,
    ray: Ray = None,
    model: options.ModelName = "auto",
    speed: options.Speed = "balanced",
    window: options.Window = "auto",
    axis: options.Axis = "auto",
    mode: options.Mode = "auto",
    overlap: options.Overlap = "exclusive",
    instances: options.Instances = False,
    verbatim: options.Verbatim = False,
    rule: options.Rule = "union",
    presence_threshold: options.Threshold = None,
    memory_budget: options.MemoryBudget = None,
    quiet: options.Quiet = False,
) -> None:
    """Segment many images. Run it again to go on: what is done as asked is skipped.

    Exit code 0 when every case has its answers, 3 when one failed (the others are done), 2 for a wrong call, 130 when
    it was cancelled (Ctrl-C).
    """
    from MedicalSAM3Lib.batch_cases import find_cases
    from MedicalSAM3Lib.config import make_settings
    from MedicalSAM3Lib.interpret import check_concepts

    settings = make_settings(speed=speed, window=window, axis=axis, mode=mode, overlap=overlap, instances=instances,
                             verbatim=verbatim, rule=rule, presence_threshold=presence_threshold,
                             memory_budget_gb=memory_budget)  # fmt: skip
    asked = options.asked_concepts(concept, preset) if concept or preset else []
    if asked:
        check_concepts(asked)
    cohort = find_cases(inputs, asked, output)
    places = choose_devices(devices, workers)
    run(cohort, output, settings, model, places, ray=ray, threads=threads, retry_failed=retry_failed, quiet=quiet)


def choose_devices(devices: str | None, workers: int) -> tuple[str, ...]:
    """A device for each worker: those named, at least one worker each; else the GPUs of this machine in turn."""
    if devices:
        named = [device.strip() for device in devices.split(",") if device.strip()]
        from MedicalSAM3Lib.config import make_settings

        for device in named:
            make_settings(device=device)
    elif workers == 1:
        return ("auto",)
    else:
        import torch

        named = [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]
    return tuple(named[n % len(named)] for n in range(max(workers, len(named))))


def run(
    cohort: Cohort, output: Path, settings: SegmentSettings, model: str, devices: tuple[str, ...], *,
    ray: str | None, threads: int, retry_failed: bool, quiet: bool,
) -> None:  # fmt: skip
    """Find the model, choose the engines, work through the cases, tell what came of them.

    This is the only place that knows where cases are segmented; everything else sees ``engine_port.Engines``.

    Raises:
        RunError: A case failed; the results of the others are written.
        SettingsError: The Ray cluster cannot be had.
    """
    from MedicalSAM3Lib import registry
    from MedicalSAM3Lib.batch_job import Plan
    from MedicalSAM3Lib.engine_choice import choose_engines
    from MedicalSAM3Lib.engine_process import EngineOptions

    folder = registry.resolve(model).resolve()
    # Other hosts know a model by its name; here it is this very folder, whatever is installed meanwhile.
    known_as = str(folder) if ray is None else model
    plan = Plan(settings, known_as, *hashes_of(folder), retry_failed=retry_failed)
    engines = choose_engines(EngineOptions(devices, known_as, threads, settings.memory_budget_gb), ray)
    work(cohort, output, plan, engines, quiet=quiet)


def work(cohort: Cohort, output: Path, plan: Plan, engines: Engines, *, quiet: bool) -> None:
    """As ``run``, with engines that are made already."""
    from MedicalSAM3Lib import cli_show
    from MedicalSAM3Lib.batch import Batch
    from MedicalSAM3Lib.batch_page import PAGE, write_pages
    from MedicalSAM3Lib.batch_state import BatchFolder
    from MedicalSAM3Lib.batch_tables import has_parquet, write_tables

    folder, outcomes = BatchFolder(output), Counter[str]()
    with folder.opened(), cli_show.case_bar(len(cohort.cases), quiet=quiet) as advance:

        def on_outcome(outcome: Outcome) -> None:
            outcomes[outcome.state] += 1
            advance(outcome.state not in ("skipped", "failed_before"))
            if outcome.message and not quiet:
                cli_show.show_lines([f"{outcome.case_id}: {outcome.message}"])

        try:
            Batch(folder, engines, plan, on_outcome).run(cohort.cases)
            folder.clear_work()
        finally:  # also of a run that was cancelled: what is done can be read
            write_tables(output, folder.records)
            write_pages(output, folder.records)
    if not quiet:
        cli_show.show_lines(_told(outcomes, cohort.passed_over, has_parquet()))
        cli_show.show_lines([f"Wrote {output / PAGE}", cli_show.RESEARCH_NOTICE])
    failed = outcomes["failed"] + outcomes["incomplete"] + outcomes["failed_before"]
    if failed:
        again = " (--retry-failed tries those again that failed before)" if outcomes["failed_before"] else ""
        raise RunError(f"{failed} of {len(cohort.cases)} cases failed{again}; the page and the summary say why.")


def hashes_of(folder: Path) -> tuple[str, str]:
    """SHA-256 over a model with all that belongs to it, and that of its weights, as reports name it.

    Raises:
        WeightsError: There is nothing to hash.
    """
    import hashlib

    from MedicalSAM3Lib.model_folder import SUMS_FILE, WEIGHTS_FILE, listed_sums, sha256_of

    if (folder / SUMS_FILE).is_file():
        return sha256_of(folder / SUMS_FILE), listed_sums(folder)[WEIGHTS_FILE]
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise WeightsError("Expected a model, got an empty folder; choose another with --model.")
    from MedicalSAM3Lib.model_import import hash_of

    digest = cache(sha256_of)  # both hashes read the same gigabytes
    return hashlib.sha256("".join(digest(file) for file in files).encode()).hexdigest(), hash_of(folder, digest)


def _told(outcomes: Counter[str], passed_over: int, with_parquet: bool) -> list[str]:
    words = {"done": "segmented", "skipped": "done before", "incomplete": "incomplete", "failed": "failed",
             "failed_before": "failed before"}  # fmt: skip
    lines = [", ".join(f"{outcomes[state]} {word}" for state, word in words.items() if outcomes[state]) or "No case."]
    if passed_over:
        lines.append(f"Passed over, because they are no images: {passed_over} file{'s' * (passed_over > 1)}.")
    if not with_parquet:
        lines.append("The manifest is there as JSON lines only; pip install 'medical-sam3[batch]' for Parquet.")
    return lines
