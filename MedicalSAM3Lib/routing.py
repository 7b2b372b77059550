"""What the routes share: the running server, who asks, and the refusals that each of them may answer with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Request

from MedicalSAM3Lib import wire
from MedicalSAM3Lib.front import Front
from MedicalSAM3Lib.guard import Caller

REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": {"model": wire.Refusal}, "5XX": {"model": wire.Refusal}}

RAW_BODY = {
    "requestBody": {
        "required": True,
        "description": "Bytes of the file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}

KeyOf = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Of this request: the same key with the same request is done once, however often it is sent.",
    ),
]


def _front(request: Request) -> Front:
    front: Front = request.app.state.front
    return front


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope["caller"]
    return caller


FrontOf = Annotated[Front, Depends(_front)]
WhoOf = Annotated[Caller, Depends(_caller)]

BINARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
