"""A real PostgreSQL whose clock jumps by a day, under workers of which some die; and workers whose own clock does."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random
from threading import Event as ThreadEvent
from threading import Thread

import pytest
from sqlalchemy import Engine, create_engine, select

from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.operating.status import read_status
from tests.faketime import FakeClock, fake_clock
from tests.outbox.conftest import METADATA, OUTBOX
from tests.outbox.queue import Queue
from tests.postgres import run_cluster
from tests.soak.chaos.destination import Destination, run_destination
from tests.soak.chaos.fleet import Fleet, run_fleet

A_DAY = timedelta(days=1)
SUBJECTS = [f"driver-{n}" for n in range(40)]
# While a clock is wrong, and between.
_SPELL_SECONDS = 3
# What is promised is a lease; a machine that has other things to do gets twice as long again.
_DRAINED_SECONDS = 3 * LEASE.total_seconds()
_WORKER = ["-m", "tests.soak.chaos.worker"]


class Traffic:
    """Events that come all the time; each subject's n counts them, as a destination expects it."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._is_over = ThreadEvent()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = Thread(target=self._put_all_the_time)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _put_all_the_time(self) -> None:
        random = Random(1)
        while not self._is_over.wait(0.3):
            self._queue.put(*random.sample(SUBJECTS, 4))


@pytest.mark.parametrize("by", [A_DAY, -A_DAY], ids=["ahead", "back"])
def test_jump_of_the_databases_clock_keeps_nothing_waiting_and_charges_only_the_dead(
    tmp_path: Path, by: timedelta
) -> None:
    with fake_clock() as clock, run_cluster(environment=clock.environment) as cluster:
        url = f"{cluster.url}/postgres"
        with opened(url) as engine, run_destination(seed=1) as destination:
            environment = {"DESTINATION_URL": destination.url, "REQUESTS_PER_SECOND": "50"}
            with run_fleet(url, tmp_path, _WORKER, environment) as fleet:
                live_through(engine, fleet, clock, [by, -by], dies_after=[by, -by])
                objections = fleet.end()
            assert not objections, objections
            assert_all_is_well(engine, destination)


def test_jump_of_a_workers_own_clock_is_no_matter(tmp_path: Path, sqlite_url: str) -> None:
    """On SQLite, where it is the database's too, and each process has one of its own."""
    with fake_clock() as clock, opened(sqlite_url) as engine, run_destination(seed=1) as destination:
        environment = {"DESTINATION_URL": destination.url, "REQUESTS_PER_SECOND": "50", **clock.environment}
        with run_worker(sqlite_url, tmp_path, environment) as fleet:
            live_through(engine, fleet, clock, [A_DAY, -2 * A_DAY, A_DAY], dies_after=[-2 * A_DAY])
            objections = fleet.end()
        assert not objections, objections
        assert_all_is_well(engine, destination)


def live_through(
    engine: Engine, fleet: Fleet, clock: FakeClock, jumps: Sequence[timedelta], *, dies_after: Collection[timedelta]
) -> None:
    """Under traffic the clock jumps. After each jump HubSpot throttles, after some a worker dies with its claims."""
    gate = Gate(OUTBOX, engine, requests_per_second=50)
    with Traffic(Queue(engine, OUTBOX)).running():
        for jump in jumps:
            time.sleep(_SPELL_SECONDS)
            clock.jump(jump)
            time.sleep(_SPELL_SECONDS)
            if jump in dies_after:
                fleet.replace(fleet.present[0])
            asyncio.run(gate.throttle(timedelta(seconds=1), "429"))
        time.sleep(_SPELL_SECONDS)
    await_drained(engine, fleet)


def await_drained(engine: Engine, fleet: Fleet) -> None:
    deadline = time.monotonic() + _DRAINED_SECONDS
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            status = read_status(connection, OUTBOX)
        if status.pending + status.claimed == 0:
            return
        time.sleep(0.5)
    pytest.fail(f"not drained: {status}\n{fleet.last_words()}")


def assert_all_is_well(engine: Engine, destination: Destination) -> None:
    c = OUTBOX.events.c
    with engine.connect() as connection:
        status = read_status(connection, OUTBOX)
        rows = connection.execute(select(c.id, c.subject, c.attempt_count)).all()
    assert status.gate.state is GateState.OPEN
    assert (status.failed, status.delivered) == (0, len(rows))
    assert max(row.attempt_count for row in rows) <= 1
    arrived: defaultdict[str, list[int]] = defaultdict(list)
    for request in destination.journal:
        for sent in request.events:
            if sent.id not in arrived[sent.subject]:
                arrived[sent.subject].append(sent.id)
    assert {subject: sorted(ids) for subject, ids in arrived.items()} == arrived
    assert sum(map(len, arrived.values())) == len(rows)


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    configure_engine(engine)
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


@contextmanager
def run_worker(url: str, folder: Path, environment: dict[str, str]) -> Iterator[Fleet]:
    """A fleet of one, without a way of its own to the database."""
    fleet = Fleet([], [url], folder, _WORKER, environment)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.kill_all()
