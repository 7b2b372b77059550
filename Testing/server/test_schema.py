"""The OpenAPI schema describes everything, and no request that it allows, or nearly allows, breaks the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

from Testing.server.fake_engines import FakeEngines
from Testing.server.server_world import BASE, World, world


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server whose engines answer at once; its limits are small, so that they are met."""
    root = tmp_path_factory.mktemp("schema")
    with world(
        root,
        engines=FakeEngines(at_once=True),
        chunk_bytes=2048,
        queue=1000,
        queue_per_client=1000,
        uploads_per_client=1000,
    ) as one:
        yield one


@pytest.fixture(scope="module")
def document(running: World) -> dict[str, Any]:
    return running.client.get("/openapi.json").json()


def undescribed(schema: Any, place: str) -> Iterator[str]:
    """Places of properties without a description."""
    if isinstance(schema, dict):
        for name, entry in schema.get("properties", {}).items() if isinstance(schema.get("properties"), dict) else ():
            if isinstance(entry, dict) and "description" not in entry:
                yield f"{place}.{name}"
        for name, entry in schema.items():
            if name in ("if", "then", "else"):  # conditions on what was described
                continue
            yield from undescribed(entry, f"{place}.{name}")
    elif isinstance(schema, list):
        for number, entry in enumerate(schema):
            yield from undescribed(entry, f"{place}.{number}")


def test_every_field_is_described(document: dict[str, Any]) -> None:
    own = {
        name: entry
        for name, entry in document["components"]["schemas"].items()
        if name not in ("HTTPValidationError", "ValidationError")
    }
    assert len(own) > 15
    assert list(undescribed(own, "schemas")) == []


def test_every_parameter_and_route_is_described(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), (path, method)
            for parameter in operation.get("parameters", []):
                is_name = parameter["in"] == "path"
                assert is_name or parameter.get("description"), (path, method, parameter["name"])


def send(client: TestClient, case: schemathesis.Case) -> Any:
    """Send a case as it is: bodies are encoded here, so that also what no client would send gets through."""
    asked = case.as_transport_kwargs(base_url=BASE)
    headers, body = dict(asked["headers"]), asked.get("data")
    if asked.get("json") is not None:
        body = json.dumps(asked["json"]).encode()
        headers.setdefault("Content-Type", "application/json")
    content = body if body is None or isinstance(body, bytes) else str(body).encode("utf-8", "replace")
    return client.request(asked["method"], asked["url"], params=asked.get("params"), headers=headers, content=content)


@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
def test_no_request_breaks_the_server(
    mode: schemathesis.GenerationMode, document: dict[str, Any], running: World
) -> None:
    answered: set[int] = set()
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation, names = found.ok(), names_that_exist(running)

        @settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode), with_names=st.booleans(), names=st.just(names))
        def is_answered(case: schemathesis.Case, with_names: bool, names: dict[str, str]) -> None:
            if with_names:  # made-up names lead no further than to "there is none"
                case.path_parameters = {**case.path_parameters, **names}
                if isinstance(case.body, dict) and "volume_id" in case.body:
                    case.body = {**case.body, "volume_id": names["volume_id"]}
            response = send(running.client, case)
            answered.add(response.status_code)
            assert response.status_code < 500, (case.method, case.path, response.status_code)
            if response.status_code >= 400:
                assert {"code", "message"} <= set(response.json())

        try:
            is_answered()
        except Unsatisfiable:  # without parameters and body, nothing can be wrong
            assert mode == schemathesis.GenerationMode.NEGATIVE
            assert not operation.body
    assert answered & {200, 201, 202}
    assert 422 in answered


def names_that_exist(running: World) -> dict[str, str]:
    """A volume, a job that is done, and an upload, made anew, for a case may have removed the last ones."""
    volume_id = running.volume()
    upload_id = running.announce(b"x" * 2000, "other.nrrd").json()["upload_id"]
    job_id = running.ask(volume_id, "liver").json()["job_id"]
    running.wait(job_id)
    return {"volume_id": volume_id, "job_id": job_id, "upload_id": upload_id, "name": "ct_upper_abdomen"}
