"""The server's application: which parts there are, and in which order a request meets them.

guard           host, origin, token, size and time            guard.py
routes          volumes, jobs, what there is, the page        routes_*.py
front           uploads, volumes, queue, jobs, models         front.py
engines         processes with the model, behind a seam       engine_port.py
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from MedicalSAM3Lib import __version__, routes_about, routes_jobs, routes_page, routes_volumes
from MedicalSAM3Lib.engine_port import Engines
from MedicalSAM3Lib.faults import what_is_wrong
from MedicalSAM3Lib.front import Front
from MedicalSAM3Lib.guard import Guard
from MedicalSAM3Lib.refusals import Refused, one_line
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.server_metrics import Meter
from MedicalSAM3Lib.server_settings import ServerSettings
from MedicalSAM3Lib.spool import Spool

_CODES = {400: "request", 404: "no_route", 405: "method", 406: "request", 415: "request", 416: "range"}


def create_app(settings: ServerSettings, engines: Engines, spool: Spool | None = None) -> FastAPI:
    """Build the application; engines start with it and end with it.

    Args:
        settings: All there is to set.
        engines: Started and stopped by the application.
        spool: Where files lie; made from the settings unless a test brings one.

    Raises:
        OutputError: The spool cannot be used.
    """
    front = Front(settings, engines, spool)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await front.start()
        try:
            yield
        finally:
            await front.stop()

    app = FastAPI(
        title="MedicalSAM3",
        version=__version__,
        description="Segment medical volumes and images by typed concepts. For research only.",
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
    )
    app.state.front = front
    app.include_router(routes_about.router)
    app.include_router(routes_volumes.router)
    app.include_router(routes_jobs.router)
    if settings.page:
        app.include_router(routes_page.page_router())
    _answer_errors(app)
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]
    # The last one added is the outermost.
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Meter, metrics=front.metrics)
    if settings.allow_origins:  # a browser asks without a token whether it may ask with one
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Mask-Shape", "X-Mask-Box", "X-Mask-Voxels"],
        )
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every error is a code and a sentence; none shows a path, a traceback, or what pydantic was given."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if not isinstance(error, Refused):
            error = Refused(error.status_code, _CODES.get(error.status_code, "request"), str(error.detail))
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        # "json_invalid" has the place in the text instead of a name.
        name = one_line(".".join(place[1:])) if first["type"] != "json_invalid" else "body"
        code = {"concepts": "concept", "settings": "settings"}.get(place[1] if len(place) > 1 else "", "request")
        fault = {part: value for part, value in first.items() if part != "input"}
        return JSONResponse(Refused(422, code, f"{name}: {what_is_wrong(fault)}.").body(), 422)


def _schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI schema, with findings as the report's own schema has them."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        report = json.loads(resource("report.schema.json").read_text(encoding="utf-8"))["$defs"]
        finding = report["finding"]
        finding["properties"]["objects"]["items"] = report["object"]
        schema["components"]["schemas"]["Finding"] = finding
        app.openapi_schema = schema
    return app.openapi_schema
