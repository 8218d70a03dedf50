"""Guarantees 8 and 9: limits hold for every process together; throttles, holds and outages burn no attempts."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, select

from sqlalchemy_outbox.gate.gate import OUTAGE_PROBE_FIRST, Gate, GateShut, LeaseEnding
from sqlalchemy_outbox.gate.row import HOLD_PROBE_EVERY, OUTAGES_TO_CLOSE, GateStatus, read_gate, release
from sqlalchemy_outbox.lease import LEASE, REQUEST_DEADLINE, Lease
from sqlalchemy_outbox.model import GateState, Outbox
from tests.outbox.queue import Queue

LONG = timedelta(minutes=10)


def lease() -> Lease:
    return Lease("token", time.monotonic() + LEASE.total_seconds())


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


@pytest.fixture
async def gate(queue: Queue) -> Gate:
    return await prepared_gate(queue)


async def prepared_gate(queue: Queue, requests_per_second: float = 1000) -> Gate:
    gate = Gate(queue.outbox, queue.engine, requests_per_second)
    await gate.prepare()
    return gate


def status(queue: Queue) -> GateStatus:
    with queue.engine.connect() as connection:
        return read_gate(connection, queue.outbox)


async def shut_by_outage(gate: Gate) -> None:
    for _ in range(OUTAGES_TO_CLOSE):
        await gate.record_outage(await gate.enter(lease()), "502")


def next_slot(queue: Queue) -> datetime:
    with queue.engine.connect() as connection:
        return connection.execute(select(queue.outbox.gate.c.next_slot_at)).scalar_one()


async def test_several_processes_together_keep_to_the_rate(queue: Queue) -> None:
    """Three gates with engines of their own would be three processes; the row is all they share."""
    gates = [await prepared_gate(queue, requests_per_second=50) for _ in range(3)]
    moments: list[float] = []

    async def send(gate: Gate) -> None:
        for _ in range(10):
            await gate.enter(lease())
            moments.append(time.monotonic())

    began = time.monotonic()
    await asyncio.gather(*(send(gate) for gate in gates))
    took = moments[-1] - began
    assert took >= 29 / 50 * 0.98
    moments.sort()
    # Burst 1: no two slots together. The n-th may not come before its time by more than a clock's grain.
    for n, moment in enumerate(moments):
        assert moment - began >= n / 50 - 0.03


async def test_throttle_stops_every_process_and_ends_by_itself(queue: Queue, gate: Gate) -> None:
    other = await prepared_gate(queue)
    await gate.throttle(timedelta(seconds=30), "429")
    for it in (gate, other):
        with pytest.raises(GateShut):
            await it.enter(lease())
    assert status(queue).state is GateState.THROTTLED
    queue.pass_time(timedelta(seconds=31))
    permit = await other.enter(lease())
    assert not permit.is_probe
    assert status(queue) == GateStatus(GateState.OPEN)


async def test_shut_gate_outlives_a_restart(queue: Queue, gate: Gate) -> None:
    await gate.throttle(timedelta(seconds=30), "429")
    restarted = await prepared_gate(queue)
    with pytest.raises(GateShut):
        await restarted.enter(lease())


async def test_short_throttle_does_not_shorten_a_long_one(queue: Queue, gate: Gate) -> None:
    await gate.throttle(timedelta(hours=3), "daily limit")
    await gate.throttle(timedelta(seconds=1), "burst")
    queue.pass_time(timedelta(minutes=1))
    with pytest.raises(GateShut):
        await gate.enter(lease())
    assert status(queue).reason == "daily limit"


async def test_hold_lets_one_probe_pass_at_a_time_and_opens_when_it_succeeds(queue: Queue, gate: Gate) -> None:
    await gate.hold("grant crm.objects.contacts.write")
    queue.pass_time(LONG)
    probe = await gate.enter(lease())
    assert probe.is_probe
    with pytest.raises(GateShut):
        await gate.enter(lease())
    await gate.record_success(probe)
    assert status(queue) == GateStatus(GateState.OPEN)
    assert not (await gate.enter(lease())).is_probe


async def test_probe_that_is_never_heard_of_again_makes_room_for_another_once_it_is_surely_over(
    queue: Queue, gate: Gate
) -> None:
    await shut_by_outage(gate)
    queue.pass_time(LONG)
    await gate.enter(lease())
    queue.pass_time(REQUEST_DEADLINE / 2)
    with pytest.raises(GateShut):
        await gate.enter(lease())
    queue.pass_time(REQUEST_DEADLINE)
    assert (await gate.enter(lease())).is_probe


async def test_hold_is_probed_no_sooner_when_its_probe_got_no_answer(queue: Queue, gate: Gate) -> None:
    await gate.hold("grant crm.objects.contacts.write")
    queue.pass_time(LONG)
    for _ in range(OUTAGES_TO_CLOSE + 1):
        await gate.record_outage(await gate.enter(lease()), "timeout")
        queue.pass_time(HOLD_PROBE_EVERY / 2)
        with pytest.raises(GateShut):
            await gate.enter(lease())
        queue.pass_time(HOLD_PROBE_EVERY)
    assert (status(queue).state, status(queue).reason) == (GateState.HELD, "grant crm.objects.contacts.write")


async def test_released_gate_stays_open_when_the_probe_under_way_gets_no_answer(queue: Queue, gate: Gate) -> None:
    """One request without an answer is no outage."""
    await gate.hold("a wrong token")
    queue.pass_time(LONG)
    probe = await gate.enter(lease())
    with queue.engine.begin() as connection:
        release(connection, queue.outbox)
    await gate.record_outage(probe, "timeout")
    assert status(queue) == GateStatus(GateState.OPEN)


async def test_probe_that_waits_for_its_slot_is_sent_though_the_gate_was_shut_anew(queue: Queue) -> None:
    """It finds out whether what shut the gate is over."""
    gate = await prepared_gate(queue, requests_per_second=5)
    await gate.hold("a wrong token")
    queue.pass_time(LONG)
    await gate.wait_for_slot()
    slot_before = next_slot(queue)
    waiting = asyncio.create_task(gate.enter(lease()))
    while next_slot(queue) == slot_before:
        await asyncio.to_thread(lambda: None)
    await gate.hold("a wrong token")
    assert (await waiting).is_probe


async def test_hold_replaces_a_throttle_that_lasts_longer(queue: Queue, gate: Gate) -> None:
    await gate.throttle(timedelta(hours=3), "daily limit")
    await gate.hold("a wrong token")
    assert (status(queue).state, status(queue).reason) == (GateState.HELD, "a wrong token")


async def test_whoever_shuts_the_gate_knows_for_how_long(gate: Gate) -> None:
    await gate.throttle(timedelta(seconds=30), "429")
    assert timedelta(seconds=20) < gate.shut_for() <= timedelta(seconds=30)
    await gate.hold("a wrong token")
    # SQLite's clock has milliseconds.
    assert timedelta(seconds=50) < gate.shut_for() <= timedelta(seconds=60, milliseconds=1)


async def test_starting_worker_does_not_end_a_throttle(queue: Queue, gate: Gate) -> None:
    await gate.throttle(timedelta(seconds=30), "429")
    await gate.probe_hold()
    with pytest.raises(GateShut):
        await gate.enter(lease())


async def test_slots_that_nobody_took_are_not_made_up_for(queue: Queue) -> None:
    gate = await prepared_gate(queue, requests_per_second=5)
    queue.pass_time(LONG)
    began = time.monotonic()
    for _ in range(3):
        await gate.enter(lease())
    assert time.monotonic() - began >= 2 / 5 * 0.98


async def test_pause_keeps_slots_back_and_brings_none_forward(queue: Queue, gate: Gate) -> None:
    slot_before = next_slot(queue)
    await gate.pause(timedelta(seconds=8))
    paused_to = next_slot(queue)
    assert paused_to > slot_before + timedelta(seconds=5)
    await gate.pause(timedelta(seconds=1))
    assert next_slot(queue) == paused_to


async def test_throttle_does_not_replace_a_hold(queue: Queue, gate: Gate) -> None:
    await gate.hold("a wrong token")
    await gate.throttle(timedelta(seconds=1), "429")
    assert status(queue).state is GateState.HELD


async def test_starting_worker_probes_a_hold_at_once(queue: Queue, gate: Gate) -> None:
    await gate.hold("a wrong token")
    restarted = Gate(queue.outbox, queue.engine, requests_per_second=1000)
    await restarted.probe_hold()
    assert (await restarted.enter(lease())).is_probe


async def test_outage_closes_the_gate_after_three_failures_in_a_row(queue: Queue, gate: Gate) -> None:
    for _ in range(OUTAGES_TO_CLOSE - 1):
        await gate.record_outage(await gate.enter(lease()), "502")
    assert status(queue).state is GateState.OPEN
    await gate.record_outage(await gate.enter(lease()), "502")
    assert status(queue).state is GateState.THROTTLED
    assert status(queue).reason == "outage: 502"


async def test_success_in_between_forgets_outages(queue: Queue, gate: Gate) -> None:
    for _ in range(5):
        await gate.record_outage(await gate.enter(lease()), "502")
        await gate.record_outage(await gate.enter(lease()), "502")
        await gate.record_success(await gate.enter(lease()))
    assert status(queue).state is GateState.OPEN


async def test_outage_is_probed_at_growing_distances_and_ends_with_the_first_success(queue: Queue, gate: Gate) -> None:
    await shut_by_outage(gate)
    waits = []
    for _ in range(7):
        waits.append(round(status(queue).wait_seconds))
        queue.pass_time(timedelta(minutes=2))
        probe = await gate.enter(lease())
        assert probe.is_probe
        await gate.record_outage(probe, "502")
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    queue.pass_time(timedelta(minutes=2))
    await gate.record_success(await gate.enter(lease()))
    assert status(queue).state is GateState.OPEN


async def test_outage_that_many_requests_meet_at_once_is_probed_as_soon_as_any(queue: Queue, gate: Gate) -> None:
    under_way = [await gate.enter(lease()) for _ in range(12)]
    for permit in under_way:
        await gate.record_outage(permit, "timeout")
    assert 0 < status(queue).wait_seconds <= OUTAGE_PROBE_FIRST.total_seconds()


async def test_nothing_is_sent_past_a_lease(gate: Gate) -> None:
    ending = Lease("token", time.monotonic() + 1)
    with pytest.raises(LeaseEnding):
        await gate.enter(ending)


async def test_person_may_look_at_the_account_during_a_hold_but_not_during_a_throttle(queue: Queue, gate: Gate) -> None:
    await gate.hold("a property is missing")
    await gate.wait_for_slot()
    assert status(queue).state is GateState.HELD
    await gate.probe_hold()
    await gate.record_success(await gate.enter(lease()))
    await gate.throttle(timedelta(seconds=30), "429")
    with pytest.raises(GateShut):
        await gate.wait_for_slot()
    queue.pass_time(timedelta(seconds=31))
    await gate.wait_for_slot()


async def test_throttle_that_answers_the_probe_of_an_outage_is_a_throttle_like_any_other(
    queue: Queue, gate: Gate
) -> None:
    await shut_by_outage(gate)
    queue.pass_time(OUTAGE_PROBE_FIRST)
    assert (await gate.enter(lease())).is_probe
    await gate.throttle(timedelta(hours=3), "daily limit")
    await gate.throttle(timedelta(seconds=1), "burst")
    assert status(queue).wait_seconds > timedelta(hours=2).total_seconds()
    with pytest.raises(GateShut):
        await gate.wait_for_slot()
    queue.pass_time(timedelta(hours=3))
    assert not (await gate.enter(lease())).is_probe


async def test_person_may_look_at_the_account_during_an_outage(queue: Queue, gate: Gate) -> None:
    await shut_by_outage(gate)
    await gate.wait_for_slot()
    assert status(queue).state is GateState.THROTTLED


async def test_request_that_waits_for_its_slot_is_not_sent_once_the_gate_was_shut(queue: Queue) -> None:
    gate = await prepared_gate(queue, requests_per_second=5)
    await gate.enter(lease())
    slot_before = next_slot(queue)
    waiting = asyncio.create_task(gate.enter(lease()))
    while next_slot(queue) == slot_before:
        await asyncio.to_thread(lambda: None)
    await gate.throttle(timedelta(seconds=30), "429")
    with pytest.raises(GateShut):
        await waiting
