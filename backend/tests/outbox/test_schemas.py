"""An engine that says in which schema its tables are is obeyed by the statements that SQLAlchemy does not execute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from outbox.model import Outbox
from outbox.testing import RecordingDestination
from tests.outbox.conftest import METADATA
from tests.outbox.queue import Queue
from tests.outbox.test_worker import worker_of


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """Of a tenant whose tables are in a schema of their own, in a database that has no others."""
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA tenant"))
    tenants = engine.execution_options(schema_translate_map={None: "tenant"})
    METADATA.create_all(tenants)
    yield tenants
    engine.dispose()


async def test_events_are_stored_and_claimed_in_the_schema_that_the_engine_names(
    engine: Engine, outbox: Outbox
) -> None:
    queue = Queue(engine, outbox)
    ids = queue.put("a", "b", "a")
    recorder = RecordingDestination()
    await worker_of(queue, recorder).drain()
    assert sorted(event.id for event in recorder.events) == ids
    assert all(queue.row(id_).processed_at is not None for id_ in ids)
