"""An engine that says in which schema its tables are is obeyed by the statements that SQLAlchemy does not execute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.outcome import FollowUp
from sqlalchemy_outbox.settling.follow_up import store
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.conftest import METADATA
from tests.outbox.queue import TYPES, Queue
from tests.outbox.test_deliveries import kept, noted, noting
from tests.outbox.test_scan import Scanner
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


async def test_deliveries_are_kept_in_the_schema_that_the_engine_names(engine: Engine, outbox: Outbox) -> None:
    queue = Queue(engine, outbox)
    queue.put("a")
    await worker_of(queue, noting(noted)).drain()
    assert [row.outcome for row in kept(queue)] == ["delivered"]


def test_event_that_commits_after_a_later_one_is_claimed_at_once_there_too(engine: Engine, outbox: Outbox) -> None:
    """Whoever writes at the moment is told by locks on the table, which is looked up by its name."""
    queue = Queue(engine, outbox)
    scanner = Scanner(queue)
    with engine.connect() as connection, connection.begin() as late:
        store(connection, outbox, [FollowUp(TYPES[0], "a", {})])
        (later,) = queue.put("b")
        assert scanner.claimed_ids() == [later]
        late.commit()
    assert len(scanner.claimed_ids()) == 1
