"""The progress of a job as a stream of events that survives dropped connections. The standard library only."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from MedicalSAM3Lib.client_http import Http
from MedicalSAM3Lib.errors import Busy, Unreachable

ENDINGS = ("done", "failed", "cancelled")
_LONGEST_LINE = 1 << 24


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a job.

    Attributes:
        number: From 1, each once and in order.
        kind: "queued", "progress", "finding", "done", "failed" or "cancelled".
        data: Plain values, by kind as the server's ``/openapi.json`` says.
    """

    number: int
    kind: str
    data: dict[str, Any]


def follow(http: Http, job_id: str, after: int = 0) -> Iterator[Event]:
    """Yield the events of a job from ``after`` on until it has ended; none is lost and none comes twice.

    Raises:
        Unreachable: The connection cannot be made again.
        ServerError: The server does not know the job, or wants another token.
    """
    attempt = 0
    while True:
        try:
            with http.open("GET", f"/v1/jobs/{job_id}/events", headers=_headers(after)) as response:
                for event in parse(response):
                    attempt = 0
                    if event.number <= after:
                        continue
                    after = event.number
                    yield event
                    if event.kind in ENDINGS:
                        return
            broken = Unreachable("The connection to the server broke while a job ran; the job goes on there.")
        except (Unreachable, Busy) as error:
            broken = Unreachable(str(error), error.code, error.status)
        attempt += 1
        if attempt >= http.attempts:
            raise broken
        http.rest(attempt)


def parse(response: http.client.HTTPResponse) -> Iterator[Event]:
    """Events of a ``text/event-stream``; one that was cut off is not among them."""
    fields: dict[str, str] = {}
    while line := response.readline(_LONGEST_LINE):
        if not line.endswith(b"\n"):
            return
        text = line.decode("utf-8").rstrip("\r\n")
        if not text:
            if "data" in fields and fields.get("id", "").isdigit():
                yield Event(int(fields["id"]), fields.get("event", ""), json.loads(fields["data"]))
            fields = {}
            continue
        name, _, value = text.partition(":")
        if name:  # else a comment, which keeps the connection open
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value


def _headers(after: int) -> dict[str, str]:
    headers = {"Accept": "text/event-stream"}
    return headers | {"Last-Event-ID": str(after)} if after else headers
