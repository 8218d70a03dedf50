"""A person's hold stops every process, and nothing but a release ends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate, GateShut
from sqlalchemy_outbox.gate.row import OUTAGES_TO_CLOSE, GateStatus, Permit
from sqlalchemy_outbox.model import GateState, Outbox
from sqlalchemy_outbox.outcome import Outcome
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.queue import Queue
from tests.outbox.test_gate import lease, prepared_gate
from tests.outbox.test_worker import eventually, running, worker_of

LONG = timedelta(minutes=10)


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


@pytest.fixture
def elsewhere(database_url: str, queue: Queue) -> Iterator[Queue]:
    """The same outbox by another engine, as another process has it."""
    engine = create_engine(database_url)
    configure_engine(engine)
    yield Queue(engine, queue.outbox)
    engine.dispose()


def hold(queue: Queue) -> None:
    operations.hold(queue.engine, queue.outbox, "the import runs", by="cli:ada")


def release(queue: Queue) -> GateStatus:
    return operations.release(queue.engine, queue.outbox, by="cli:bob")


def status(queue: Queue) -> GateStatus:
    return operations.status(queue.engine, queue.outbox).gate


async def assert_shut(*gates: Gate) -> None:
    for gate in gates:
        with pytest.raises(GateShut, match="the import runs"):
            await gate.enter(lease())


async def test_hold_of_one_process_stops_another_and_its_release_lets_both_go_on(
    queue: Queue, elsewhere: Queue
) -> None:
    here, there = await prepared_gate(queue), await prepared_gate(elsewhere)
    hold(elsewhere)
    await assert_shut(here, there)
    assert here.shut_for() > timedelta(0)
    assert (status(queue).state, status(queue).held_by) == (GateState.HELD, "cli:ada")
    assert release(queue).held_by == "cli:ada"
    for gate in (here, there):
        assert not (await gate.enter(lease())).is_probe


async def test_neither_time_nor_a_starting_worker_lifts_it(queue: Queue, elsewhere: Queue) -> None:
    hold(queue)
    queue.pass_time(LONG)
    here, there = await prepared_gate(queue), await prepared_gate(elsewhere)
    await there.probe_hold()
    await assert_shut(here, there)


async def test_probe_that_was_on_its_way_does_not_lift_it(queue: Queue) -> None:
    gate = await prepared_gate(queue)
    await gate.hold("a wrong token")
    queue.pass_time(LONG)
    probe = await gate.enter(lease())
    hold(queue)
    await gate.record_success(probe)
    await assert_shut(gate)
    assert status(queue).held_by == "cli:ada"


async def test_what_the_destination_answers_meanwhile_does_not_replace_it(queue: Queue) -> None:
    gate = await prepared_gate(queue)
    hold(queue)
    await gate.hold("a wrong token")
    await gate.throttle(timedelta(seconds=1), "429")
    for _ in range(OUTAGES_TO_CLOSE):
        await gate.record_outage(Permit(is_probe=False, outages=0), "502")
    assert (status(queue).reason, status(queue).held_by) == ("the import runs", "cli:ada")
    release(queue)
    permit = await gate.enter(lease())
    assert (permit.is_probe, permit.outages) == (False, 0)


async def test_release_opens_a_gate_that_the_destination_shut(queue: Queue) -> None:
    gate = await prepared_gate(queue)
    await gate.hold("a wrong token")
    assert release(queue).reason == "a wrong token"
    assert not (await gate.enter(lease())).is_probe
    await gate.throttle(LONG, "429")
    release(queue)
    await gate.enter(lease())


async def test_release_ends_an_outage_and_what_was_counted_of_it(queue: Queue) -> None:
    gate = await prepared_gate(queue)
    for _ in range(OUTAGES_TO_CLOSE):
        await gate.record_outage(await gate.enter(lease()), "502")
    release(queue)
    for _ in range(OUTAGES_TO_CLOSE - 1):
        await gate.record_outage(await gate.enter(lease()), "502")
    assert status(queue).state is GateState.OPEN


async def test_hold_may_come_before_any_worker_has_run(queue: Queue) -> None:
    assert release(queue) == GateStatus(GateState.OPEN)
    hold(queue)
    await assert_shut(await prepared_gate(queue))


async def test_worker_charges_nothing_while_held_and_goes_on_as_soon_as_it_is_released(
    queue: Queue, elsewhere: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll would find it in the end: here only the release's own wake-up can."""
    monkeypatch.setattr("sqlalchemy_outbox.delivering.worker.POLL_INTERVAL", LONG)
    recorder = RecordingDestination()
    calls = 0

    async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        nonlocal calls
        calls += 1
        return await recorder(claim, gate)

    (before,) = queue.put("a")
    async with running(worker_of(queue, deliver)):
        await eventually(lambda: queue.row(before).processed_at)
        hold(elsewhere)
        (id_,) = queue.put("a")
        # The worker has looked, met the hold, and handed back what it had in hand.
        await eventually(lambda: calls >= 2 and queue.row(id_).claim_token is None)
        assert queue.row(id_).attempt_count == 0
        release(elsewhere)
        await eventually(lambda: queue.row(id_).processed_at, seconds=30)
