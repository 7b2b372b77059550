"""A batch in a process of its own, to be killed: ``python -m Testing.lib.batch_run INPUTS OUT LOG WORKERS``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from MedicalSAM3Lib.batch_cases import find_cases
from MedicalSAM3Lib.batch_job import Plan
from MedicalSAM3Lib.cli_batch import work
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.engine_process import EngineOptions
from MedicalSAM3Lib.engines import ProcessEngines
from MedicalSAM3Lib.structures import Segmentation


def without_pictures(replace: Callable[[object, str, object], None]) -> None:
    """Let a batch write small files in place of its pictures."""
    from MedicalSAM3Lib import batch_files

    def thumbnails(folder: Path, _: object, segmentation: Segmentation) -> None:
        for place, finding in enumerate(segmentation.findings):
            if finding.state == "found":
                (folder / f"{place}.jpg").write_bytes(b"picture")

    replace(batch_files, "write_preview", lambda path, *_: path.write_bytes(b"picture"))
    replace(batch_files, "write_thumbnails", thumbnails)


def main(inputs: str, out: str, log: str, workers: str) -> None:
    """Run it."""
    options = EngineOptions(("cpu",) * int(workers))
    engines = ProcessEngines(options, lambda _: [sys.executable, "-m", "Testing.lib.batch_worker", log])
    cohort = find_cases([inputs], ["lesion"], Path(out))
    without_pictures(setattr)
    work(cohort, Path(out), Plan(make_settings(), "oracle", "0" * 64), engines, quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
