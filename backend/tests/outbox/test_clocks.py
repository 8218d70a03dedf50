"""Clocks jump, in both directions: once the database's is right again, nothing waits longer than a lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest
from sqlalchemy import ColumnElement, Engine, select, update

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.housekeeping.sweep import Sweep
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import Event, GateState, Outbox
from sqlalchemy_outbox.operating.status import longest_due_seconds, read_snapshot, read_status
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed, Retry
from sqlalchemy_outbox.settling.backoff import WAIT_MAX
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.clock import DatabaseClock
from tests.outbox.queue import TYPES, Queue

A_DAY = timedelta(days=1)
JUMPS = [timedelta(minutes=10), A_DAY, timedelta(days=400)]
JUMPS_BOTH_WAYS = [timedelta(minutes=10), A_DAY, -A_DAY, -timedelta(days=400)]


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


@pytest.fixture
def clock(engine: Engine) -> DatabaseClock:
    return DatabaseClock(engine)


def worker_of(queue: Queue, recorder: RecordingDestination) -> Worker:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=100)
    return Worker(queue.outbox, queue.engine, recorder, gate, types=TYPES, random=queue.random)


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        await asyncio.gather(*tasks)


async def eventually(queue: Queue, ids: list[int], seconds: float = LEASE.total_seconds()) -> None:
    """Return when all of these events are delivered."""
    c = queue.outbox.events.c
    undelivered = select(c.id).where(c.id.in_(ids), c.processed_at.is_(None))

    def left() -> list[int]:
        with queue.engine.connect() as connection:
            return list(connection.execute(undelivered).scalars())

    async with asyncio.timeout(seconds):
        while await asyncio.to_thread(left):  # noqa: ASYNC110  # A database sets no asyncio.Event.
            await asyncio.sleep(0.02)


def sweep(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        Sweep(queue.outbox, queue.random).correct(connection)


def seconds_until(queue: Queue, instant: ColumnElement[datetime]) -> float:
    with queue.engine.connect() as connection:
        return float(connection.execute(select(SecondsUntil(instant))).scalar_one())


def move(queue: Queue, by: timedelta, *columns: ColumnElement[datetime], ids: list[int] | None = None) -> None:
    """Let stored instants lie so much later, as if they had been stored by a clock that ran ahead."""
    with queue.engine.begin() as connection:
        for column in columns:
            later = DatabaseNow(SecondsUntil(column) + by.total_seconds())
            statement = update(column.table).where(column.is_not(None)).values({column.name: later})  # type: ignore[attr-defined]
            if ids is not None:
                statement = statement.where(queue.outbox.events.c.id.in_(ids))
            connection.execute(statement)


def put_in_the_future(queue: Queue, by: timedelta, *subjects: str) -> list[int]:
    ids = queue.put(*subjects)
    c = queue.outbox.events.c
    move(queue, by, c.created_at, c.available_at, ids=ids)
    return ids


@pytest.mark.parametrize("by", JUMPS)
def test_event_that_was_enqueued_by_a_clock_that_ran_ahead_is_due_at_once_and_in_its_order(
    queue: Queue, by: timedelta
) -> None:
    before = queue.put("a", "b")
    ahead = put_in_the_future(queue, by, "a", "c")
    after = queue.put("a", "c")
    token, events = queue.claim()
    assert sorted(event.id for event in events) == [*before, *ahead, *after]
    assert [event.id for event in events if event.subject == "a"] == [before[0], ahead[0], after[0]]
    assert queue.settle(token, events, Delivered()) == {*before, *ahead, *after}


@pytest.mark.parametrize("outcome", [Retry("500"), Postponed(wait=timedelta(seconds=30))], ids=["retry", "postponed"])
def test_event_of_the_future_that_is_pushed_back_waits_like_any_other(queue: Queue, outcome: Outcome) -> None:
    (id_,) = put_in_the_future(queue, A_DAY, "a")
    queue.settle(*queue.claim(), outcome)
    assert queue.claimed_ids() == []
    queue.pass_time(timedelta(seconds=31))
    assert queue.claimed_ids() == [id_]


def test_event_of_the_future_that_a_person_retries_goes_before_younger_ones(queue: Queue) -> None:
    (id_,) = put_in_the_future(queue, A_DAY, "a")
    for _ in range(3):
        queue.settle(*queue.claim(limit=1), Retry("500"))
        queue.pass_time(WAIT_MAX)
    (younger,) = put_in_the_future(queue, A_DAY, "a")
    queue.retry(id_)
    assert queue.claimed_ids() == [id_, younger]


@pytest.mark.parametrize("by", JUMPS)
async def test_wait_that_a_clock_which_ran_ahead_began_is_over(queue: Queue, by: timedelta) -> None:
    ids = queue.put("a", "b", "c")
    queue.settle(*queue.claim(limit=2), Retry("500"))
    c = queue.outbox.events.c
    move(queue, by, c.available_at, ids=ids[:1])
    move(queue, by, c.created_at, c.available_at, ids=ids[1:2])
    sweep(queue)
    claims = [queue.claimed_ids() for _ in ids]
    assert sorted(id_ for claim in claims for id_ in claim) == ids


def test_wait_that_is_as_long_as_any_is_not_cut_short(queue: Queue) -> None:
    queue.put("a")
    queue.settle(*queue.claim(), Postponed(wait=timedelta(hours=5)))
    c = queue.outbox.events.c
    assert WAIT_MAX.total_seconds() - 5 < seconds_until(queue, c.available_at) <= WAIT_MAX.total_seconds()
    sweep(queue)
    assert queue.claimed_ids() == []


@pytest.mark.parametrize("by", JUMPS)
def test_claim_of_a_dead_worker_is_found_within_a_lease_of_the_clock_being_right(queue: Queue, by: timedelta) -> None:
    (id_,) = queue.put("a")
    queue.claim()
    move(queue, by, queue.outbox.leases.c.until)
    sweep(queue)
    assert seconds_until(queue, queue.outbox.leases.c.until) <= LEASE.total_seconds()
    queue.pass_time(LEASE + timedelta(seconds=1))
    queue.charge_lost_leases()
    assert (queue.row(id_).claim_token, queue.row(id_).attempt_count) == (None, 1)


@pytest.mark.parametrize("by", JUMPS)
@pytest.mark.parametrize("wait", [timedelta(seconds=30), timedelta(hours=23)])
async def test_throttle_ends_when_it_was_to_end_though_the_clock_ran_ahead(
    queue: Queue, by: timedelta, wait: timedelta
) -> None:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=100)
    await gate.prepare()
    await gate.throttle(wait, "429")
    g = queue.outbox.gate.c
    sweep(queue)
    assert wait.total_seconds() - 5 < seconds_until(queue, g.until) <= wait.total_seconds()
    move(queue, by, g.until, g.until_set_at)
    for _ in range(2):
        sweep(queue)
        assert wait.total_seconds() - 5 < seconds_until(queue, g.until) <= wait.total_seconds() + 1


@pytest.mark.parametrize("by", JUMPS)
def test_event_that_waits_is_seen_though_its_creation_lies_ahead(queue: Queue, by: timedelta) -> None:
    put_in_the_future(queue, by, "a")
    assert all(seconds > 1 for seconds in ages(queue))
    queue.put("b")
    queue.pass_time(timedelta(minutes=7))
    put_in_the_future(queue, by, "a")
    assert all(419 < seconds < 425 for seconds in ages(queue)), "what waits for longest is told of rightly dated ones"


def ages(queue: Queue) -> list[float]:
    with queue.engine.connect() as connection:
        return [
            read_status(connection, queue.outbox).oldest_pending_seconds or 0.0,
            read_snapshot(connection, queue.outbox).oldest_pending_seconds or 0.0,
            longest_due_seconds(connection, queue.outbox, TYPES),
        ]


def test_what_was_delivered_while_the_clock_ran_ahead_is_not_the_last_minutes_for_a_day(queue: Queue) -> None:
    queue.put("a")
    queue.settle(*queue.claim(), Delivered())
    move(queue, A_DAY, queue.outbox.events.c.processed_at)
    with queue.engine.connect() as connection:
        assert read_snapshot(connection, queue.outbox).delivered_last_minute == 0


@pytest.mark.parametrize("by", JUMPS_BOTH_WAYS)
async def test_everything_is_delivered_in_order_and_uncharged_though_the_clock_jumps_and_jumps_back(
    queue: Queue, clock: DatabaseClock, by: timedelta
) -> None:
    """While it is wrong, too; under workers that hold claims, an event that backs off, and a throttle."""
    tried: set[int] = set()

    def answer(event: Event) -> Outcome:
        is_first = event.subject == "sick" and event.id not in tried
        tried.add(event.id)
        return Postponed("423", timedelta(seconds=0.3)) if is_first else Delivered()

    recorder = SlowDestination(answer)
    gate = Gate(queue.outbox, queue.engine, requests_per_second=100)
    ids = []
    async with running(*(worker_of(queue, recorder) for _ in range(2))), traffic(queue):
        for jump in (timedelta(0), by, -by):
            clock.jump(jump)
            ids += queue.put("a", "b", "sick", "a", "c")
            # The clock jumps on while one backs off.
            await eventually(queue, [id_ for id_ in ids if queue.row(id_).subject != "sick"])
            await gate.throttle(timedelta(seconds=0.2), "429")
        await eventually(queue, ids)
    assert gate_state(queue) is GateState.OPEN
    assert {queue.row(id_).attempt_count for id_ in ids} == {0}
    for subject in ("a", "b", "c"):
        arrived = [event.id for event in recorder.events if event.subject == subject]
        assert arrived == sorted(set(arrived))


@asynccontextmanager
async def traffic(queue: Queue) -> AsyncIterator[None]:
    """Meanwhile other events come, which wake the workers."""

    async def put_now_and_then() -> None:
        while True:
            await asyncio.to_thread(queue.put, "traffic")
            await asyncio.sleep(0.2)

    task = asyncio.create_task(put_now_and_then())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def gate_state(queue: Queue) -> GateState:
    with queue.engine.connect() as connection:
        return read_status(connection, queue.outbox).gate.state


class SlowDestination(RecordingDestination):
    """Takes a moment, so that the clock jumps under claims that are held."""

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        outcomes = await super().__call__(claim, gate)
        await asyncio.sleep(0.1)
        return outcomes


def test_jump_ahead_charges_no_event_and_a_dead_workers_claim_is_found_a_lease_later(
    queue: Queue, clock: DatabaseClock
) -> None:
    """However often it happens: three charges would fail an event that nothing ails."""
    (id_,) = queue.put("a")
    queue.claim()
    sweeps = [Sweep(queue.outbox, queue.random) for _ in range(2)]

    def charged() -> list[int]:
        with queue.engine.begin() as connection:
            for sweep in sweeps:
                sweep.correct(connection)
            return [event.event.id for sweep in sweeps for event in sweep.take_back(connection).charged]

    assert charged() == []
    for jump in (A_DAY, A_DAY, -A_DAY, A_DAY, timedelta(minutes=1)):
        clock.jump(jump)
        assert charged() == []
    queue.pass_time(LEASE + timedelta(seconds=1))
    assert charged() == [id_]


async def test_gate_that_was_shut_by_a_clock_that_ran_ahead_is_set_right_though_it_keeps_workers_from_claiming(
    queue: Queue, clock: DatabaseClock
) -> None:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=100)
    await gate.prepare()
    clock.jump(A_DAY)
    await gate.throttle(timedelta(seconds=1), "429")
    clock.jump(-A_DAY)
    ids = queue.put("a")
    async with running(worker_of(queue, RecordingDestination())), traffic(queue):
        await eventually(queue, ids)


def test_person_who_holds_and_releases_leaves_nothing_behind_of_a_wrong_clock(
    queue: Queue, clock: DatabaseClock
) -> None:
    clock.jump(A_DAY)
    operations.hold(queue.engine, queue.outbox, "mending", by="test")
    clock.jump(-A_DAY)
    operations.release(queue.engine, queue.outbox, by="test")
    assert gate_state(queue) is GateState.OPEN
    assert seconds_until(queue, queue.outbox.gate.c.next_slot_at) <= 1


def test_nothing_is_purged_early_because_the_databases_clock_ran_ahead(queue: Queue, clock: DatabaseClock) -> None:
    queue.put("a", "b")
    queue.settle(*queue.claim(), Delivered())
    clock.jump(A_DAY)
    assert queue.purge(A_DAY / 2) == 0
    clock.jump(-A_DAY)
    queue.pass_time(A_DAY)
    assert queue.purge(A_DAY / 2) == 2
