"""A table of the application's that refers to events: while somebody writes to it, events go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from sqlalchemy_outbox.outcome import Delivered, Rejected
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import Queue


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
