"""The kit that applications test with does what its names say; and the example runs as its text says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_outbox import configure_engine, enqueue
from sqlalchemy_outbox.model import Event, Outbox
from sqlalchemy_outbox.outcome import Delivered, Outcome, Retry
from sqlalchemy_outbox.testing import RecordingDestination, assert_enqueued, drain, enqueued
from tests.outbox.queue import Queue

BACKEND = Path(__file__).parents[2]
EXAMPLE = BACKEND.parent / "examples" / "parcels.py"


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def test_enqueued_event_is_found_by_its_payload(queue: Queue) -> None:
    queue.put("a", "b")
    found = assert_enqueued(queue.engine, queue.outbox, "something_happened", n=1)
    assert (found.subject, found.payload) == ("b", {"n": 1})
    assert len(enqueued(queue.engine, queue.outbox)) == 2


def test_missing_or_ambiguous_event_fails_the_test_and_shows_what_there_is(queue: Queue) -> None:
    queue.put("a", "b")
    for payload in ({"n": 9}, {}):
        with pytest.raises(AssertionError, match="there are: "):
            assert_enqueued(queue.engine, queue.outbox, "something_happened", **payload)


@pytest.mark.parametrize("is_flushed_first", [True, False])
def test_events_are_seen_in_a_transaction_that_the_test_rolls_back(queue: Queue, is_flushed_first: bool) -> None:
    with queue.engine.connect() as connection:
        around = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as db:
            if is_flushed_first:
                db.execute(text("SELECT 1"))
            for subject in ("a", "b"):
                enqueue(db, queue.outbox, "something_happened", subject, {"n": subject})
                db.commit()
            enqueue(db, queue.outbox, "something_happened", "c", {})
            db.rollback()
        assert [event.subject for event in enqueued(connection, queue.outbox)] == ["a", "b"]
        assert assert_enqueued(connection, queue.outbox, "something_happened", n="b").subject == "b"
        around.rollback()
    assert enqueued(queue.engine, queue.outbox) == []


async def test_events_of_an_async_transaction_are_seen_likewise(queue: Queue) -> None:
    url = queue.engine.url.set(drivername=queue.engine.url.drivername.replace("sqlite", "sqlite+aiosqlite"))
    configure_engine(engine := create_async_engine(url))
    async with engine.connect() as connection:
        await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as db:
            enqueue(db, queue.outbox, "something_happened", "a", {})
            await db.commit()
        assert [event.subject for event in await connection.run_sync(enqueued, queue.outbox)] == ["a"]
        await connection.rollback()
    assert enqueued(engine, queue.outbox) == []
    await engine.dispose()


async def test_drain_goes_on_through_retries_to_the_end(queue: Queue) -> None:
    first, other, second = queue.put("a", "b", "a")

    def answer(event: Event) -> Outcome:
        return Retry("no") if event.id == first and event.attempt_count < 2 else Delivered()

    destination = RecordingDestination(answer)
    await drain(queue.engine, queue.outbox, destination)
    assert all(queue.row(id_).processed_at for id_ in (first, other, second))
    assert [event.id for event in destination.events if event.subject == "a"] == [first, second, first, first, second]


def test_example_delivers_in_order_and_only_what_was_committed() -> None:
    output = subprocess.check_output([sys.executable, EXAMPLE], text=True, env={"PYTHONPATH": str(BACKEND)})
    assert output.splitlines() == ["order-1 packed A", "order-1 handed_over A"]
    assert len(EXAMPLE.read_text().splitlines()) < 60
