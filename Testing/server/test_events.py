"""The stream of a job's events: numbered, resumed without loss, kept open, and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.jobs import Event, Job
from Testing.server.fake_engines import FakeEngines
from Testing.server.server_world import World, events, world


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as running:
        yield running


def told(one: World) -> str:
    """A job with two stages and an answer, that is done."""
    job = one.ask(one.volume(), "liver").json()["job_id"]
    for done in (1, 2):
        one.engines.say(job, "progress", stage="features", done=done, total=2, fraction=done / 4, seconds_left=1.5)
    one.engines.say(job, "progress", stage="detection", done=2, total=2, fraction=1.0, seconds_left=0.0)
    one.engines.finish(job)
    one.wait(job)
    return job


def test_a_job_tells_all_in_order_and_ends(one: World) -> None:
    found = events(one.client, told(one))
    assert [event["event"] for event in found] == [
        "queued", "progress", "progress", "progress", "progress", "finding", "done"
    ]  # fmt: skip
    assert [event["id"] for event in found] == list(range(1, 8))
    assert found[0]["data"] == {"position": 0}
    assert found[2]["data"] == {"stage": "features", "done": 1, "total": 2, "fraction": 0.25, "seconds_left": 1.5}
    assert found[5]["data"]["finding"]["phrase"] == "liver"


@pytest.mark.parametrize("way", ["header", "query"])
def test_a_stream_goes_on_after_the_event_that_came_last(one: World, way: str) -> None:
    job = told(one)
    whole = events(one.client, job)
    for after in range(len(whole) + 2):
        options = {"headers": {"Last-Event-ID": str(after)}} if way == "header" else {"params": {"after": after}}
        assert events(one.client, job, **options) == whole[after:]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 40, "", "\u0663"])
def test_a_last_event_that_is_no_number_is_ignored(one: World, value: str) -> None:
    job = told(one)
    assert events(one.client, job, headers={"Last-Event-ID": value.encode()}) == events(one.client, job)


def test_steps_too_small_to_be_seen_make_no_event(one: World) -> None:
    job = one.ask(one.volume(), "liver").json()["job_id"]
    for done in range(10_001):
        one.engines.say(job, "progress", stage="features", done=done, total=10_000)
    one.engines.finish(job)
    one.wait(job)
    found = [event["data"]["done"] for event in events(one.client, job) if event["event"] == "progress"]
    assert len(found) <= 103
    assert found[-1] == 10_000


def test_places_in_the_queue_are_told_when_they_change(one: World) -> None:
    volume = one.volume()
    first, _, third = (one.ask(volume, f"c{number}").json()["job_id"] for number in range(3))
    one.engines.finish(first)
    one.wait(first)
    one.client.post(f"/v1/jobs/{third}/cancel")
    found = events(one.client, third)
    assert [event["data"].get("position") for event in found if event["event"] == "queued"] == [1, 0]
    assert found[-1]["event"] == "cancelled"


def test_a_failure_is_told_with_its_reason(one: World) -> None:
    job = one.ask(one.volume(), "liver").json()["job_id"]
    one.engines.fail(job, "memory", "There is\nno memory.")
    assert events(one.client, job)[-1]["data"] == {"code": "memory", "message": "There is no memory."}


def test_the_reply_is_a_stream_that_no_proxy_holds_back(tmp_path: Path) -> None:
    with world(tmp_path, engines=FakeEngines(at_once=True)) as one:
        job = one.ask(one.volume(), "liver").json()["job_id"]
        headers = one.client.get(f"/v1/jobs/{job}/events").headers
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["x-accel-buffering"] == "no"


def test_a_silent_job_keeps_its_stream_open() -> None:
    async def scenario() -> list[Event | None]:
        job, found = Job("segment", "me", "me"), []
        job.happened("queued", {})
        async for event in job.follow(0, 0.02):
            found.append(event)
            if event is None:
                job.finish("cancelled")
        return found

    first, silence, last = asyncio.run(scenario())
    assert silence is None
    assert [event.kind for event in (first, last) if event] == ["queued", "cancelled"]


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(1, 4))
def test_however_events_and_readers_interleave_each_reader_has_all(pauses: list[int], readers: int) -> None:
    async def scenario() -> list[list[int]]:
        job = Job("segment", "me", "me")

        async def read() -> list[int]:
            return [event.number async for event in job.follow(0, 1.0) if event]

        tasks = [asyncio.create_task(read()) for _ in range(readers)]
        for pause in pauses:
            for _ in range(pause):
                await asyncio.sleep(0)
            job.happened("progress", {})
        job.finish("done")
        return await asyncio.gather(*tasks)

    assert asyncio.run(scenario()) == [list(range(1, len(pauses) + 2))] * readers
