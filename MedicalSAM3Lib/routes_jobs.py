"""The routes by which work is asked for, followed, ended and fetched: ``/v1/jobs`` and ``/v1/estimate``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import FileResponse, StreamingResponse

from MedicalSAM3Lib import exports, result_files, routing, wire
from MedicalSAM3Lib.errors import PromptError
from MedicalSAM3Lib.front import Front
from MedicalSAM3Lib.guard import Caller
from MedicalSAM3Lib.interpret import check_concepts
from MedicalSAM3Lib.jobs import Job
from MedicalSAM3Lib.refusals import Refused, refusal_of
from MedicalSAM3Lib.routing import FrontOf, WhoOf

router = APIRouter(prefix="/v1", tags=["jobs"], responses=routing.REFUSALS)

KEEP_ALIVE_S = 15.0
_AFTER = Query(ge=0, lt=1 << 53, description="Number of the last event that came: the stream goes on after it.")


@router.post("/jobs", status_code=202)
async def ask(asked: wire.Question, front: FrontOf, who: WhoOf, key: routing.KeyOf = None) -> wire.Job:
    """Ask for concepts in a volume."""
    return submit("segment", asked, front, who, key)


@router.post("/estimate", status_code=202)
async def ask_estimate(asked: wire.Question, front: FrontOf, who: WhoOf, key: routing.KeyOf = None) -> wire.Job:
    """Ask how long that would take, and how much memory; the answer is the job's `estimate`."""
    return submit("estimate", asked, front, who, key)


def submit(kind: wire.JobKind, asked: wire.Question, front: Front, who: Caller, key: str | None) -> wire.Job:
    """Check a question and queue it, unless the same request was here before.

    Raises:
        Refused: 404 "volume" or "model", 409 "key_reused", 422 "concept" or "settings", 429 "queue_full".
    """
    before = front.keys.recall(who.owner, kind, key, asked)
    if before is not None and (job := front.jobs.get(before)) is not None:
        return show(job, front)
    volume = front.shelf.find(who.owner, asked.volume_id)
    _check(asked, front)
    job = Job(
        kind=kind,
        owner=who.owner,
        lane=who.lane,
        volume_id=volume.volume_id,
        concepts=tuple(asked.concepts),
        settings=asked.settings.model_dump(mode="json"),
        model=asked.model,
    )
    front.dispatcher.submit(job)
    front.keys.remember(who.owner, kind, key, asked, job.job_id)
    return show(job, front)


@router.get("/jobs")
async def list_jobs(front: FrontOf, who: WhoOf) -> list[wire.Job]:
    """Your jobs, the newest first."""
    positions = front.dispatcher.positions()
    return [job.to_wire(positions.get(job.job_id)) for job in front.jobs.of(who.owner)]


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, front: FrontOf, who: WhoOf) -> wire.Job:
    """A job of yours."""
    return show(front.jobs.find(who.owner, job_id), front)


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses=routing.EVENT_STREAM)
async def follow_job(
    job_id: str,
    front: FrontOf,
    who: WhoOf,
    after: Annotated[int, _AFTER] = 0,
    last_event_id: Annotated[str, Header(description="As `after`; sent by browsers that reconnect.")] = "",
) -> StreamingResponse:
    """Follow a job by server-sent events: queued, progress, finding, and at last done, failed or cancelled."""
    job = front.jobs.find(who.owner, job_id)
    if last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 16:
        after = max(after, int(last_event_id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(job, after), media_type="text/event-stream", headers=headers)


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(job_id: str, front: FrontOf, who: WhoOf) -> wire.Job:
    """Cancel a job; one that has ended stays as it is."""
    job = front.jobs.find(who.owner, job_id)
    front.cancel(job)
    return show(job, front)


@router.delete("/jobs/{job_id}")
async def remove_job(job_id: str, front: FrontOf, who: WhoOf) -> wire.Job:
    """Cancel a job and forget it with its results."""
    job = front.jobs.find(who.owner, job_id)
    front.forget(job)
    return show(job, front)


@router.get("/jobs/{job_id}/segments/{index}/mask", responses=routing.BINARY)
async def get_mask(job_id: str, index: int, front: FrontOf, who: WhoOf) -> Response:
    """A mask, cropped to its box: gzip of a bit a voxel, in array order, the first in the lowest bit of a byte."""
    job = finished(front.jobs.find(who.owner, job_id))
    if not 0 <= index < len(job.segments):
        raise Refused(404, "segment", f"Expected a segment of the {len(job.segments)} of this job, got another number.")
    assert job.out is not None
    box, voxels = job.segments[index]["box_kji"] or [0] * 6, job.segments[index]["voxels"]
    shape = [high - low for low, high in zip(box[::2], box[1::2], strict=True)]
    data = await asyncio.to_thread(result_files.mask_path(job.out, index).read_bytes)
    headers = {
        "X-Mask-Shape": ",".join(map(str, shape)),
        "X-Mask-Box": ",".join(map(str, box)),
        "X-Mask-Voxels": str(voxels),
    }
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.get("/jobs/{job_id}/segmentation", response_class=FileResponse, responses=routing.BINARY)
async def get_segmentation(
    job_id: str,
    front: FrontOf,
    who: WhoOf,
    as_format: Annotated[exports.Format, Query(alias="format", description="Of the file.")] = "seg.nrrd",
) -> FileResponse:
    """The whole segmentation as a file on the grid of the input; zip holds label maps with their sidecar."""
    job = finished(front.jobs.find(who.owner, job_id))
    assert job.out is not None
    path = await exports.export(job.out, as_format, front.settings.decode_s)
    return FileResponse(path, filename=f"segmentation.{as_format}", media_type="application/octet-stream")


@router.get("/jobs/{job_id}/confidence", response_class=FileResponse, responses=routing.BINARY)
async def get_confidence(
    job_id: str,
    front: FrontOf,
    who: WhoOf,
    as_format: Annotated[Literal["nii.gz"], Query(alias="format", description="Of the file.")] = "nii.gz",
) -> FileResponse:
    """How sure the model is of each voxel, 0 to 1, where `settings.confidence_map` asked for it."""
    job = finished(front.jobs.find(who.owner, job_id))
    assert job.out is not None
    path = job.out / result_files.CONFIDENCE
    if not path.is_file():
        raise Refused(404, "confidence", "Expected a job with settings.confidence_map, this one did not ask for it.")
    return FileResponse(path, filename=f"confidence.{as_format}", media_type="application/octet-stream")


@router.get("/jobs/{job_id}/report", response_class=FileResponse)
async def get_report(job_id: str, front: FrontOf, who: WhoOf) -> FileResponse:
    """The report, as Resources/report.schema.json describes it."""
    job = finished(front.jobs.find(who.owner, job_id))
    assert job.out is not None
    return FileResponse(job.out / result_files.REPORT, filename="report.json", media_type="application/json")


def show(job: Job, front: Front) -> wire.Job:
    """A job as a client sees it, with its place in the queue."""
    return job.to_wire(front.dispatcher.positions().get(job.job_id))


def finished(job: Job) -> Job:
    """A job with results.

    Raises:
        Refused: 409 "not_done".
    """
    if job.state != "done" or job.kind != "segment":
        raise Refused(
            409, "not_done", f"Expected a segmentation that is done, got a job '{job.kind}' that is {job.state}."
        )
    return job


def _check(asked: wire.Question, front: Front) -> None:
    limits = front.settings
    if len(asked.concepts) > limits.concepts:
        message = (
            f"Expected at most {limits.concepts} concepts in a job, got {len(asked.concepts)}; ask in several jobs."
        )
        raise Refused(422, "concept", message)
    longest = max(len(phrase) for phrase in asked.concepts)
    if longest > limits.phrase_characters:
        message = f"Expected a concept of at most {limits.phrase_characters} characters, got {longest}; shorten it."
        raise Refused(422, "concept", message)
    try:
        check_concepts(asked.concepts)
    except PromptError as error:
        raise refusal_of(error) from error
    devices = [engine.device for engine in front.engines.states()]
    if asked.settings.device not in ("auto", *devices):
        raise Refused(
            422, "settings", f"device: expected auto or one of {', '.join(devices)}; the server has no other."
        )
    front.models.require_ready(asked.model)


async def _stream(job: Job, after: int) -> AsyncIterator[bytes]:
    async for event in job.follow(after, KEEP_ALIVE_S):
        if event is None:
            yield b": still here\n\n"
        else:
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n".encode()
