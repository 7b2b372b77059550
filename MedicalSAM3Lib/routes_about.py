"""The routes that say what there is: health, metrics, capabilities, concepts, models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST

from MedicalSAM3Lib import __version__, completion, routing, wire, wire_about
from MedicalSAM3Lib.concepts import Concept
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.decoding import SUFFIXES
from MedicalSAM3Lib.exports import FORMATS
from MedicalSAM3Lib.front import Front
from MedicalSAM3Lib.guard import Caller
from MedicalSAM3Lib.jobs import Job
from MedicalSAM3Lib.model_keeper import check_can_download
from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.routing import FrontOf, WhoOf

router = APIRouter(responses=routing.REFUSALS)


@router.get("/health", tags=["about"])
async def health(front: FrontOf) -> wire_about.Health:
    """Whether the server can be used. Needs no token."""
    states = front.engines.states()
    found = {engine.state for engine in states}
    status: wire_about.Status = "ok" if found & {"idle", "busy"} else "warming"
    if "dead" in found:
        status = "degraded"
    engines = [wire_about.EngineHealth(device=engine.device, state=engine.state) for engine in states]
    return wire_about.Health(status=status, version=__version__, engines=engines)


@router.get("/metrics", tags=["about"], response_class=Response)
async def metrics(front: FrontOf) -> Response:
    """Numbers for Prometheus."""
    return Response(front.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/capabilities", tags=["about"])
async def capabilities(front: FrontOf) -> wire_about.Capabilities:
    """What this server can do, and what it refuses."""
    settings, model = front.settings, front.engines.model()
    return wire_about.Capabilities(
        api="1",
        version=__version__,
        model=None if model is None else wire_about.ModelFacts(**asdict(model)),
        devices=[engine.device for engine in front.engines.states()],
        formats_in=list(SUFFIXES),
        formats_out=list(FORMATS),
        limits=wire_about.Limits(
            **{name: getattr(settings, name) for name in wire_about.Limits.model_fields},
        ),
        manage_models=settings.may_manage_models,
        settings_schema=SegmentSettings.model_json_schema(),
    )


@router.get("/v1/concepts", tags=["about"])
async def concepts(
    q: Annotated[str, Query(max_length=200, description="What was typed so far.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="Most that come.")] = 20,
) -> list[wire_about.ConceptEntry]:
    """Known concepts that fit what was typed, the best first. Any other words can be asked for, too."""
    return [_concept(concept) for concept in completion.complete(q, limit)]


@router.get("/v1/models", tags=["models"])
async def models(front: FrontOf) -> list[wire_about.ModelEntry]:
    """Models that this software knows, and those that the user installed."""
    return front.models.entries()


@router.post("/v1/models/{name}/download", tags=["models"], status_code=202)
async def download(name: str, asked: wire_about.DownloadRequest, front: FrontOf, who: WhoOf) -> wire.Job:
    """Download a model; `licence_text` of `/v1/models` must have been accepted."""
    _require_manager(front)
    check_can_download(front.models.find(name), asked.accept_licence)
    return _submit("download", name, front, who)


@router.post("/v1/models/{name}/verify", tags=["models"], status_code=202)
async def verify(name: str, front: FrontOf, who: WhoOf) -> wire.Job:
    """Compare the files of a model with their checksums."""
    _require_installed(name, front)
    return _submit("verify", name, front, who)


@router.delete("/v1/models/{name}", tags=["models"], status_code=202)
async def remove(name: str, front: FrontOf, who: WhoOf) -> wire.Job:
    """Remove a model from this machine."""
    _require_manager(front)
    _require_installed(name, front)
    return _submit("remove", name, front, who)


def _submit(kind: wire.JobKind, name: str, front: Front, who: Caller) -> wire.Job:
    job = Job(kind=kind, owner=who.owner, lane=who.lane)
    front.models.submit(job, name)
    return job.to_wire(None)


def _require_manager(front: Front) -> None:
    if not front.settings.may_manage_models:
        message = "Expected a server whose models clients may change, this one's may not; see manage_models."
        raise Refused(403, "models", message)


def _require_installed(name: str, front: Front) -> None:
    if front.models.find(name).folder is None:
        raise Refused(404, "model", "Expected an installed model, this one is not; download it first.")


def _concept(concept: Concept) -> wire_about.ConceptEntry:
    return wire_about.ConceptEntry(
        concept_id=concept.concept_id,
        name=concept.name,
        synonyms=list(concept.synonyms),
        side=concept.side,
        colour=concept.colour,
        codes=wire.Codes(**asdict(concept.codes)),
    )
