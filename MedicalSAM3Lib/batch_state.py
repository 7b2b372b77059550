"""The folder of a batch: what is done, by hash of input, model and settings; every step is one rename.

cases/ID/          a finished case, with ``case.json``, the line that it has in the manifest
failed/ID.json     a case that failed at its last try
.work/HASH-RUN/    a case on its way: ``volume/``, ``results/``, and ``segmented.json`` from when only writing is left

A case is done when its folder is there with the fingerprint that is asked for. There is no list that could disagree.
Each run has its own folders below ``.work``: the engine of a run that was killed may still write for a moment.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.atomic import replacing, swap_folders
from MedicalSAM3Lib.batch_cases import Case
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import InputError, OutputError
from MedicalSAM3Lib.model_folder import sha256_of

RECORD, SEGMENTED = "case.json", "segmented.json"
FORMAT = "1"
"""Raised when a case's folder changes so that old ones must be made again."""


def input_hash(case: Case) -> str:
    """SHA-256 of the image's content; of a series, whatever the names and the order of its files.

    Raises:
        InputError: A file cannot be read.
    """
    try:
        digests = sorted(sha256_of(file) for file in case.files)
    except OSError as error:
        reason = (error.strerror or "it refused").lower()
        raise InputError(f"Expected an image that can be read, got: {reason}; check the file.") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def fingerprint(input_sha256: str, case: Case, settings: SegmentSettings, weights_hash: str) -> str:
    """SHA-256 of all that decides about a result."""
    parts = [FORMAT, input_sha256, weights_hash, settings.digest(), *case.concepts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class BatchFolder:
    """The results of a batch on disk. One process at a time has it."""

    def __init__(self, root: Path) -> None:
        self.root, self._cases, self._failed, self._work = root, root / "cases", root / "failed", root / ".work"
        self._run = uuid.uuid4().hex[:12]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the folder one's own; what a killed run left half-done is removed.

        Raises:
            OutputError: It cannot be written, or another run has it.
        """
        from filelock import FileLock, Timeout

        try:
            for folder in (self._cases, self._failed, self._work):
                folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / ".lock", timeout=0)
            with lock:
                self._sweep()
                yield
        except Timeout as error:
            raise OutputError(
                "Expected a folder of one run, got one that another run has; wait or choose another."
            ) from error
        except OSError as error:
            reason = (error.strerror or "it refused").lower()
            raise OutputError(
                f"Expected a folder for results that can be written to, but {reason}; choose another."
            ) from error

    def is_done(self, case_id: str, key: str) -> bool:
        """Whether the case is there as asked."""
        record = _read(self._cases / case_id / RECORD)
        return record is not None and record["fingerprint"] == key

    def failure(self, case_id: str, key: str) -> dict[str, Any] | None:
        """How the same case failed before, or answered only in part."""
        for record in (_read(self._failed / f"{case_id}.json"), _read(self._cases / case_id / RECORD)):
            if record is not None and record["fingerprint"] == key and record["state"] != "done":
                return record
        return None

    def work_folder(self, key: str, case_id: str) -> tuple[Path, bool]:
        """A folder for a case on its way, and whether only writing is left of it."""
        name = hashlib.sha256(f"{key} {case_id}".encode()).hexdigest()[:32]
        for folder in self._work.glob(f"{name}-*"):
            if (folder / SEGMENTED).is_file():
                return folder, True
        folder = self._work / f"{name}-{self._run}"
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("volume", "results"):
            (folder / name).mkdir(parents=True)
        return folder, False

    def keep(self, new: Path, record: Mapping[str, Any]) -> None:
        """Make a written folder the case's own, in place of an older one."""
        case_id = record["case"]
        (new / RECORD).write_text(_line(record), encoding="utf-8")
        old = self._work / f"old-{uuid.uuid4().hex}"
        swap_folders(new, self._cases / case_id, old)
        (self._failed / f"{case_id}.json").unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)

    def keep_failure(self, record: Mapping[str, Any]) -> None:
        """Remember that a case failed."""
        with replacing(self._failed / f"{record['case']}.json") as (new,):
            new.write_text(_line(record), encoding="utf-8")

    def records(self) -> Iterator[dict[str, Any]]:
        """A line of the manifest for each case ever asked for here, by id; one at a time in memory."""
        done = {folder.name for folder in self._cases.iterdir() if (folder / RECORD).is_file()}
        failed = {file.stem for file in self._failed.glob("*.json") if not file.name.startswith(".")}
        for case_id in sorted(done | failed):
            records = [_read(self._cases / case_id / RECORD), _read(self._failed / f"{case_id}.json")]
            there = [record for record in records if record is not None]
            if there:
                yield max(there, key=lambda record: str(record["finished"]))

    def remove_work(self, folder: Path) -> None:
        """A case has arrived, well or not."""
        if folder.parent == self._work:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_work(self) -> None:
        """At the end of a run nothing is on its way."""
        for folder in self._work.iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        for folder in self._work.iterdir():
            if not (folder / SEGMENTED).is_file():
                shutil.rmtree(folder, ignore_errors=True)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
