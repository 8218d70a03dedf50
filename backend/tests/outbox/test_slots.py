"""A slot is a permission for its moment: in any second few more leave than the rate, whatever was paused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event, select, update

from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil
from sqlalchemy_outbox.gate import row as gate_row
from sqlalchemy_outbox.gate.gate import Gate, GateShut, LeaseEnding
from sqlalchemy_outbox.gate.row import SLOTS_AHEAD_MAX
from sqlalchemy_outbox.gate.slot import LATE_MIN_SECONDS, RoundTrip
from sqlalchemy_outbox.lease import LEASE, REQUEST_DEADLINE, Lease
from sqlalchemy_outbox.model import Outbox
from tests.outbox.queue import Queue
from tests.rate import most_in_a_second

JUMPS = [timedelta(seconds=25), timedelta(hours=1), timedelta(days=1), timedelta(days=400)]


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def lease(lasting: timedelta = LEASE) -> Lease:
    return Lease("token", time.monotonic() + lasting.total_seconds())


async def prepared_gate(queue: Queue, requests_per_second: float) -> Gate:
    gate = Gate(queue.outbox, queue.engine, requests_per_second)
    await gate.prepare()
    return gate


def seconds_to_next_slot(queue: Queue) -> float:
    with queue.engine.connect() as connection:
        return float(connection.execute(select(SecondsUntil(queue.outbox.gate.c.next_slot_at))).scalar_one())


def move_slot_ahead(queue: Queue, by: timedelta) -> None:
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.gate).values(next_slot_at=DatabaseNow(by.total_seconds())))


@pytest.mark.parametrize("by", JUMPS)
async def test_slot_that_a_clock_which_ran_ahead_has_left_behind_keeps_nobody_waiting(
    queue: Queue, by: timedelta
) -> None:
    gate = await prepared_gate(queue, requests_per_second=8)
    for enter in (lambda: gate.enter(lease()), gate.wait_for_slot):
        move_slot_ahead(queue, by)
        async with asyncio.timeout(5):
            await enter()
        assert seconds_to_next_slot(queue) <= 1


@pytest.mark.parametrize("by", JUMPS)
async def test_release_resets_the_slot_that_a_clock_which_ran_ahead_has_left_behind(
    queue: Queue, by: timedelta
) -> None:
    await prepared_gate(queue, requests_per_second=8)
    move_slot_ahead(queue, by)
    with queue.engine.begin() as connection:
        gate_row.release(connection, queue.outbox)
    assert seconds_to_next_slot(queue) <= 0


async def test_release_does_not_give_away_slots_that_are_taken(queue: Queue) -> None:
    await prepared_gate(queue, requests_per_second=8)
    move_slot_ahead(queue, timedelta(seconds=5))
    with queue.engine.begin() as connection:
        gate_row.release(connection, queue.outbox)
    assert seconds_to_next_slot(queue) > 4


async def test_no_slot_is_taken_so_far_ahead_that_only_a_wrong_clock_can_mean_it(queue: Queue) -> None:
    await prepared_gate(queue, requests_per_second=1)
    with queue.engine.begin() as connection:
        given = [gate_row.take_slot(connection, queue.outbox, 1.0) for _ in range(30)]
        given_aside = [gate_row.take_control_slot(connection, queue.outbox, 1.0) for _ in range(3)]
    assert len([slot for slot in given if slot is not None]) in (11, 12)
    assert given_aside == [None, None, None]
    assert seconds_to_next_slot(queue) <= SLOTS_AHEAD_MAX.total_seconds() + 1


async def test_sender_that_finds_all_slots_taken_waits_as_long_as_its_lease_allows(queue: Queue) -> None:
    gate = await prepared_gate(queue, requests_per_second=8)
    move_slot_ahead(queue, SLOTS_AHEAD_MAX + timedelta(seconds=0.1))
    with pytest.raises(LeaseEnding):
        await gate.enter(lease(REQUEST_DEADLINE + timedelta(seconds=0.5)))
    move_slot_ahead(queue, SLOTS_AHEAD_MAX + timedelta(seconds=0.1))
    waiting = asyncio.create_task(gate.enter(lease()))
    queue.pass_time(SLOTS_AHEAD_MAX)
    async with asyncio.timeout(5):
        await waiting


async def test_sender_that_waits_for_room_is_told_when_the_gate_is_shut(queue: Queue) -> None:
    gate, other = [await prepared_gate(queue, requests_per_second=8) for _ in range(2)]
    move_slot_ahead(queue, SLOTS_AHEAD_MAX + timedelta(seconds=0.1))
    waiting = asyncio.create_task(gate.enter(lease()))
    await other.throttle(timedelta(seconds=30), "429")
    with pytest.raises(GateShut):
        await waiting


@pytest.mark.parametrize(("rate", "stopped_for"), [(8, 0.7), (20, 0.4), (20, 1.5)])
async def test_slots_that_were_missed_are_not_used_together(queue: Queue, rate: float, stopped_for: float) -> None:
    """As by a process that was stopped or starved, while another one goes on."""
    gates = [await prepared_gate(queue, rate) for _ in range(2)]
    moments: list[float] = []
    await run_with_a_stop([gate.enter for gate in gates], moments, stopped_for)
    assert most_in_a_second(moments) <= 1.1 * rate + 2


async def test_requests_without_a_lease_miss_their_slots_too(queue: Queue) -> None:
    gate = await prepared_gate(queue, requests_per_second=20)
    moments: list[float] = []
    await run_with_a_stop([lambda _: gate.wait_for_slot()], moments, 1.0)
    assert most_in_a_second(moments) <= 24


async def run_with_a_stop(
    enters: Sequence[Callable[[Lease], Awaitable[object]]], moments: list[float], stopped_for: float
) -> None:
    """Senders of each gate leave one after the other; after a while, none of this process gets on for a moment."""

    async def send(enter: Callable[[Lease], Awaitable[object]]) -> None:
        for _ in range(2):
            await enter(lease())
            moments.append(time.monotonic())

    senders = [asyncio.create_task(send(enter)) for enter in enters for _ in range(12 // len(enters))]
    while len(moments) < 3:  # noqa: ASYNC110  # The senders are not told that somebody looks.
        await asyncio.sleep(0)
    stop(stopped_for)
    await asyncio.gather(*senders)


def stop(seconds: float) -> None:
    """What SIGSTOP does to the event loop, and threads go on: answers lie ready that nobody has read."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)


async def test_database_that_takes_longer_than_an_interval_gives_slots_all_the_same(queue: Queue) -> None:
    gate = await prepared_gate(queue, requests_per_second=50)
    left = 0

    async def send() -> None:
        nonlocal left
        for _ in range(3):
            await gate.enter(lease())
            left += 1

    with slow(queue.engine, 0.12):
        async with asyncio.timeout(30):
            await asyncio.gather(send(), send())
    assert left == 6


@contextmanager
def slow(engine: Engine, seconds: float) -> Iterator[None]:
    """Meanwhile each of the gate's statements takes so much longer; SQLite's wait for each other."""

    def wait(*_: object) -> None:
        time.sleep(seconds)

    event.listen(engine, "before_cursor_execute", wait)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", wait)


async def test_probe_is_sent_though_it_comes_late(queue: Queue) -> None:
    """Its slot was the one probe of a minute; another would be refused."""
    gate = await prepared_gate(queue, requests_per_second=5)
    await gate.hold("a wrong token")
    queue.pass_time(timedelta(minutes=10))
    await gate.wait_for_slot()
    waiting = asyncio.create_task(gate.enter(lease()))
    before = seconds_to_next_slot(queue)
    while seconds_to_next_slot(queue) <= before:  # noqa: ASYNC110  # A database sets no asyncio.Event.
        await asyncio.sleep(0)
    stop(1.0)
    assert (await waiting).is_probe


def test_sender_that_was_stopped_while_it_asked_is_late() -> None:
    trip = RoundTrip()
    trip.slot(0.0, 0.002, 0.0, 0.1)
    # Four asked at once, and were stopped for three seconds before the answers came.
    slots = [trip.slot(10.0, 13.0, 0.5, 0.1) for _ in range(4)]
    assert all(slot.leaves_at > slot.is_late_after for slot in slots)


def test_slow_database_is_known_as_such_after_a_few_answers() -> None:
    trip = RoundTrip()

    def is_late(at: float, seconds: float) -> bool:
        slot = trip.slot(at, at + seconds, 0.0, 0.1)
        return slot.leaves_at > slot.is_late_after

    assert not is_late(0.0, 0.002)
    answers = [is_late(2.0 * n, 2.0) for n in range(1, 12)]
    assert answers == sorted(answers, reverse=True)
    assert (answers[0], answers[-1]) == (True, False)
    # One quick answer, and it is not slow.
    assert not is_late(100.0, 0.002)
    assert is_late(101.0, 2.0)


def test_sender_may_be_late_by_an_interval_and_never_by_less_than_a_moment() -> None:
    for interval in (0.001, 0.125, 2.0):
        slot = RoundTrip().slot(0.0, 0.0, 1.0, interval)
        assert slot.leaves_at == 1.0
        assert slot.is_late_after == 1.0 + max(interval, LATE_MIN_SECONDS)


def test_sender_that_is_always_late_is_let_through_in_the_end() -> None:
    def is_late(late_before: int) -> bool:
        slot = RoundTrip().slot(0.0, 1.0, 0.0, 0.05, late_before)
        return slot.leaves_at > slot.is_late_after

    assert all(is_late(late_before) for late_before in range(6))
    assert not is_late(9)
