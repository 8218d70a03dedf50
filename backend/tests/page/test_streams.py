"""The figures' stream, and jobs that outlast a request: what they cost, and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from threading import Event, Thread, Timer

import httpx2
import pytest
import uvicorn
from sqlalchemy.exc import OperationalError

from app.main import create_app
from hubspot_sync.page.jobs import KEPT_MAX, Job, Jobs, JobState, TooManyJobs
from hubspot_sync.page.snapshots import WATCHERS_MAX, Snapshots, TooManyWatch
from sqlalchemy_outbox.gate.row import GateStatus
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.operations import Progress, Snapshot
from tests.page.conftest import TOKEN, settings_for

# Well below the minute after which a stream ends by itself.
STOP_SECONDS_MAX = 20
PULSE = Snapshot(1, 0, 0, None, 0, 0, GateStatus(GateState.OPEN))


async def test_many_who_watch_cost_one_reading_a_second_and_none_when_they_have_gone():
    readings = 0

    def read() -> Snapshot:
        nonlocal readings
        readings += 1
        return PULSE

    snapshots = Snapshots(read)
    watches = [snapshots.watch(0.0) for _ in range(WATCHERS_MAX)]
    samples = await asyncio.gather(*(anext(it) for it in watches))
    assert all(it[-1].snapshot == PULSE for it in samples)
    assert readings == 1
    with pytest.raises(TooManyWatch):
        await anext(snapshots.watch(0.0))
    for watch in watches[1:]:
        await watch.aclose()
    later = await anext(watches[0])
    assert len(later) == 1
    assert readings == 2
    await watches[0].aclose()
    assert snapshots._task is not None
    await asyncio.wait_for(snapshots._task, 5)
    assert readings == 2


async def test_watch_goes_on_when_the_machines_clock_is_set_back():
    now = 1_800_086_400.0
    snapshots = Snapshots(lambda: PULSE, clock=lambda: now)
    watch = snapshots.watch(0.0)
    (ahead,) = await anext(watch)
    now -= 86_400
    (sample,) = await asyncio.wait_for(anext(watch), 10)
    assert sample.at == now
    again = snapshots.watch(ahead.at)
    assert [sample.at for sample in await asyncio.wait_for(anext(again), 10)] == [now]
    await watch.aclose()
    await again.aclose()
    await snapshots.close()


async def test_watch_goes_on_while_the_database_is_away_and_ends_with_the_page():
    def read() -> Snapshot:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    snapshots = Snapshots(read)
    watch = snapshots.watch(0.0)
    [sample] = await anext(watch)
    assert sample.snapshot is None
    waiting = asyncio.ensure_future(anext(watch))
    await snapshots.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


def test_job_that_the_database_leaves_or_the_application_stops_says_so_and_keeps_what_is_done():
    jobs, has_begun = Jobs(), Event()

    def fails() -> Iterator[Progress]:
        yield Progress(1000, 5000)
        raise OperationalError("UPDATE", {}, Exception("gone"))

    def endless() -> Iterator[Progress]:
        for done in range(10**9):
            yield Progress(done, 10**9)
            has_begun.set()

    failed = jobs.start(Job("a", "retry", "page:Ada", 5000), fails)
    assert failed.ended.wait(5)
    assert (failed.state, failed.done, failed.words) == (JobState.INTERRUPTED, 1000, "the database did not answer")
    running = jobs.start(Job("b", "retry", "page:Ada", 5000), endless)
    assert has_begun.wait(5)
    jobs.stop()
    assert running.state is JobState.INTERRUPTED


def test_jobs_take_bounded_memory():
    jobs, may_end = Jobs(), Event()

    def waits() -> Iterator[Progress]:
        may_end.wait(10)
        yield Progress(0, 0)

    for number in range(KEPT_MAX):
        jobs.start(Job(str(number), "retry", "page:Ada", 0), waits)
    with pytest.raises(TooManyJobs):
        jobs.start(Job("one more", "retry", "page:Ada", 0), waits)
    may_end.set()
    last = jobs.find(str(KEPT_MAX - 1))
    assert last is not None
    assert last.ended.wait(5)
    jobs.start(Job("one more", "retry", "page:Ada", 0), waits)
    assert [jobs.find(str(number)) is None for number in range(KEPT_MAX)].count(True) == 1
    jobs.stop()


def test_open_stream_does_not_keep_the_server_from_stopping(database_url):
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings_for(database_url)), port=0, log_config=None, access_log=False)
    )
    lines: list[str] = []

    def watch() -> None:
        while not server.started:
            time.sleep(0.01)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with httpx2.Client(base_url=f"{address}/ops/hubspot", headers={"Origin": address}, trust_env=False) as http:
            http.post("/sign-in", data={"name": "Ada", "token": TOKEN})
            with http.stream("GET", "/stream", timeout=20) as stream:
                for line in stream.iter_lines():
                    if not lines:
                        os.kill(os.getpid(), signal.SIGTERM)
                    lines.append(line)

    # uvicorn hands the signal on, once it has stopped, to who had it before.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    watcher = Thread(target=watch)
    give_up = Timer(STOP_SECONDS_MAX, setattr, (server, "force_exit", True))
    try:
        watcher.start()
        give_up.start()
        server.run()
        assert not server.force_exit
    finally:
        give_up.cancel()
        watcher.join()
        signal.signal(signal.SIGTERM, before)
    assert lines[:2] == ["retry: 1000", "event: samples"]
