"""Each request that carried events is kept with what it came to, however its claim ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Row, create_engine, select

from instruments.statements import Kind, watch
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed
from sqlalchemy_outbox.settling.deliveries import Delivery
from tests.outbox.queue import Queue
from tests.outbox.test_worker import eventually, running, worker_of

WORDS = {"status": 207, "category": "VALIDATION_ERROR", "correlation_id": "c-1", "error": "no", "traceparent": "00-a"}


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def noted(claim: Claim, outcome: str = "delivered", began_at: float | None = None, **words: Any) -> Delivery:
    began_at = time.monotonic() if began_at is None else began_at
    outcomes = {it.id: f"{outcome} {it.subject}" for it in claim.events}
    return Delivery("upsert", began_at, timedelta(milliseconds=120), outcome, outcomes, **words)


def noting(*deliveries: Callable[[Claim], Delivery]) -> Any:
    """A destination that delivers all, and notes these."""

    async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        for it in deliveries:
            claim.note(it(claim))
        return {it.id: Delivered() for it in claim.events}

    return deliver


def kept(queue: Queue) -> list[Row[Any]]:
    with queue.engine.connect() as connection:
        table = queue.outbox.records.deliveries
        return list(connection.execute(select(table).order_by(table.c.id)).all())


def links(queue: Queue) -> list[tuple[int, int, str]]:
    with queue.engine.connect() as connection:
        rows = connection.execute(select(queue.outbox.records.delivery_events)).all()
    return sorted((row.delivery_id, row.event_id, row.outcome) for row in rows)


async def test_noted_deliveries_are_kept_in_order_and_linked_to_their_events(queue: Queue) -> None:
    a, b = queue.put("a", "b")
    began = time.monotonic() - 2
    first = lambda claim: noted(claim, "refused", began, **WORDS)  # noqa: E731
    await worker_of(queue, noting(first, noted)).drain()
    refused, delivered = kept(queue)
    assert {name: getattr(refused, name) for name in WORDS} == WORDS
    assert (refused.endpoint, refused.events, refused.duration_ms, refused.outcome) == ("upsert", 2, 120, "refused")
    assert (delivered.status, delivered.category, delivered.error) == (None, None, None)
    ago = (datetime.now(UTC) - refused.started_at).total_seconds()
    assert ago == pytest.approx(time.monotonic() - began, abs=1)
    assert links(queue) == [
        (refused.id, a, "refused a"),
        (refused.id, b, "refused b"),
        (delivered.id, a, "delivered a"),
        (delivered.id, b, "delivered b"),
    ]


async def test_deliveries_are_kept_though_the_lease_was_lost(queue: Queue) -> None:
    (id_,) = queue.put("a")

    async def lose_the_lease(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        claim.note(noted(claim))
        await asyncio.to_thread(queue.hand_back, claim.lease.token)
        worker.stop()
        return {id_: Delivered()}

    worker = worker_of(queue, lose_the_lease)
    await worker.drain()
    assert queue.row(id_).processed_at is None
    assert [it.outcome for it in kept(queue)] == ["delivered"]


async def test_deliveries_are_kept_though_the_destination_raised(queue: Queue) -> None:
    queue.put("a")

    async def buggy(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        claim.note(noted(claim, "no answer"))
        raise ZeroDivisionError("a bug")

    await worker_of(queue, buggy).drain()
    assert [it.outcome for it in kept(queue)] == ["no answer"]


async def test_deliveries_of_a_worker_that_is_stopped_meanwhile_are_kept(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlalchemy_outbox.delivering.in_flight.STOP_DEADLINE", timedelta(milliseconds=10))
    (id_,) = queue.put("a")
    has_begun = asyncio.Event()

    async def never_ends(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        claim.note(noted(claim, "refused"))
        has_begun.set()
        await asyncio.Event().wait()
        return {}

    async with running(worker_of(queue, never_ends)):
        await has_begun.wait()
    row = queue.row(id_)
    assert (row.claim_token, row.attempt_count) == (None, 0)
    assert [it.outcome for it in kept(queue)] == ["refused"]


async def test_what_no_database_stores_is_kept_as_escapes_and_cut(queue: Queue) -> None:
    queue.put("a")
    await worker_of(queue, noting(lambda claim: noted(claim, error="\0 \ud800" + "x" * 5000))).drain()
    (delivery,) = kept(queue)
    assert delivery.error.startswith("\\x00 \\ud800")
    assert len(delivery.error) < 2100


async def test_batch_is_settled_by_one_statement_also_when_something_was_noted(
    outbox_postgres_url: str, outbox: Outbox
) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    counts = []
    for deliver in (noting(), noting(noted, noted)):
        queue.put("a", "b")
        with watch(engine) as log:
            await worker_of(queue, deliver).drain()
        counts.append(sum(it.kind is Kind.SETTLE or "_deliveries" in it.sql for it in log.statements))
        assert len(log.of(Kind.SETTLE)) == 1
    engine.dispose()
    assert counts == [1, 1]


async def test_running_worker_keeps_deliveries(queue: Queue) -> None:
    async def postpone_once(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        outcome = Delivered() if kept(queue) else Postponed()
        claim.note(noted(claim, type(outcome).__name__))
        return {it.id: outcome for it in claim.events}

    (id_,) = queue.put("a")
    async with running(worker_of(queue, postpone_once)):
        await eventually(lambda: queue.row(id_).processed_at)
    assert [it.outcome for it in kept(queue)] == ["Postponed", "Delivered"]
