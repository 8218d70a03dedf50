"""A table of the application's that refers to events: while somebody writes to it, events go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.operating.references import undeletable
from sqlalchemy_outbox.outcome import Delivered, Rejected
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import TYPES, Queue
from tests.outbox.test_worker import eventually, running

# Of a lock that purges wait for, and of a machine that has other things to do; far below a transaction's deadline.
SOON_SECONDS = 4


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(outbox_postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (event_id uuid REFERENCES outbox_events (event_id))"))
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def test_event_that_an_open_transaction_refers_to_is_claimed_settled_retried_and_set_right(
    engine: Engine, connection: Connection
) -> None:
    queue = Queue(engine, OUTBOX)
    first, second = queue.put("a", "a")
    connection.execute(text("SET lock_timeout = '2s'"))
    connection.execute(text("INSERT INTO notes SELECT event_id FROM outbox_events"))
    token, events = queue.claim()
    assert [event.id for event in events] == [first, second]
    queue.settle_each(token, events, {first: Rejected("no"), second: Delivered()})
    queue.retry(first)
    assert queue.claimed_ids() == [first]


async def test_purge_that_waits_for_a_row_of_yours_keeps_no_delivery_waiting_for_long(
    engine: Engine, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    queue, recorder = Queue(engine, OUTBOX), RecordingDestination()
    queue.put("a")
    token, events = queue.claim()
    queue.settle_each(token, events, {event.id: Delivered() for event in events})
    queue.pass_time(timedelta(days=40))
    with engine.begin() as preparing:
        preparing.execute(text("CREATE TABLE marks (id bigint REFERENCES outbox_events ON DELETE CASCADE)"))
        preparing.execute(text("INSERT INTO marks SELECT id FROM outbox_events"))
    connection.execute(text("SELECT FROM marks FOR UPDATE"))
    gate = Gate(OUTBOX, engine, requests_per_second=1000)
    worker = Worker(OUTBOX, engine, recorder, gate, types=TYPES, retention=timedelta(days=30))
    async with running(worker):
        await eventually(lambda: is_waited_for(connection))
        await asyncio.to_thread(queue.put, "a")
        await eventually(lambda: len(recorder.events) == 1, SOON_SECONDS)
    assert "Could not purge" in caplog.text


def is_waited_for(connection: Connection) -> bool:
    return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one())


def test_tables_that_keep_events_from_being_deleted_are_found(engine: Engine) -> None:
    with engine.begin() as connection:
        for name, what in (("kept", ""), ("restricted", "ON DELETE RESTRICT"), ("emptied", "ON DELETE SET NULL")):
            connection.execute(text(f"CREATE TABLE {name} (id bigint REFERENCES outbox_events {what})"))
        assert list(undeletable(connection, OUTBOX)) == [
            "kept_id_fkey of kept",
            "notes_event_id_fkey of notes",
            "restricted_id_fkey of restricted",
        ]
