"""Downloading, verifying and removing models as jobs, one at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from MedicalSAM3Lib import children, wire_about
from MedicalSAM3Lib.catalogue import ModelInfo, catalogue
from MedicalSAM3Lib.jobs import Job, Jobs, failure_of
from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.registry import ModelState, list_models

TIMEOUT_S = 6 * 3600.0


class ModelKeeper:
    """Works on the models of this machine."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._broken: set[str] = set()

    def entries(self) -> list[wire_about.ModelEntry]:
        """All models, as a client sees them."""
        return [self._entry(state) for state in list_models()]

    def find(self, name: str) -> ModelState:
        """A model by its name.

        Raises:
            Refused: 404 "model".
        """
        for state in list_models():
            if state.name == name:
                return state
        raise Refused(404, "model", "Expected the name of a model, there is none of that name; see /v1/models.")

    def require_ready(self, name: str) -> None:
        """Check that jobs can use a model.

        Raises:
            Refused: 404 "model": unknown, or not installed.
        """
        if name != "auto" and self.find(name).folder is None:
            raise Refused(404, "model", f"The model '{name}' is not installed on the server; download it first.")

    def submit(self, job: Job, name: str) -> None:
        """Begin a job of kind "download", "verify" or "remove"."""
        job.model = name
        self._jobs.add(job)
        job.queue(len(self._tasks))
        task = asyncio.create_task(self._run(job, name))
        self._tasks[job.job_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.job_id, None))

    def cancel(self, job: Job) -> None:
        """End a job; what was downloaded stays, and the next download goes on from there."""
        if (task := self._tasks.get(job.job_id)) is not None:
            task.cancel()

    async def close(self) -> None:
        """End all jobs."""
        for task in list(self._tasks.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self, job: Job, name: str) -> None:
        try:
            async with self._turn:
                job.start()
                await children.run_child("model_jobs", [job.kind, name], timeout_s=TIMEOUT_S, on_line=job.advance)
        except asyncio.CancelledError:
            job.finish("cancelled")
            raise
        except Refused as refused:
            if job.kind == "verify":
                self._broken.add(name)
            job.finish("failed", failure_of(refused))
            return
        self._broken.discard(name)
        job.finish("done")

    def _entry(self, state: ModelState) -> wire_about.ModelEntry:
        info, ready = state.info, "broken" if state.name in self._broken else "ready"
        return wire_about.ModelEntry(
            name=state.name,
            title=info.title if info else "Imported by the user",
            state="absent" if state.folder is None else ready,
            bytes=_size(state),
            licence=info.licence.name if info else "",
            licence_text=info.licence.accept if info else "",
            demonstration=info is not None and info.kind == "bundled",
        )


def check_can_download(state: ModelState, accepted: bool) -> ModelInfo:
    """The catalogue's entry of a model that may be downloaded.

    Raises:
        Refused: 422 "model": there is nothing to download; 403 "licence": it was not accepted.
    """
    info = state.info
    if info is None or info.kind != "download" or info.name not in catalogue():
        raise Refused(422, "model", f"Expected a model to download, '{state.name}' is on this machine already.")
    if not accepted:
        message = f"Expected accept_licence: true once a person has accepted {info.licence.name} ({info.licence.url})."
        raise Refused(403, "licence", message)
    return info


def _size(state: ModelState) -> int:
    if state.folder is None:
        return int((state.info.about_gb if state.info else 0.0) * 1e9)
    return sum(path.stat().st_size for path in state.folder.iterdir() if path.is_file())
