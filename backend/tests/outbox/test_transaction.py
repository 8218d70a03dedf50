"""A worker's transactions run in threads; whoever gives one up knows afterwards that its connection is back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy.exc
from sqlalchemy import Connection, Engine, QueuePool, create_engine, text
from sqlalchemy.exc import DBAPIError

from sqlalchemy_outbox.claiming.scan import Scan
from sqlalchemy_outbox.database.transaction import DEADLINE, for_single_statements, transact
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import Event, Outbox
from tests.outbox.queue import TYPES, Queue
from tests.outbox.test_worker import eventually


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_transaction_has_given_its_connection_back(engine: Engine, times: int) -> None:
    """Or who disposes of the engine next leaves that connection open."""
    began, go_on = threading.Event(), threading.Event()

    def work(_connection: Connection) -> None:
        began.set()
        go_on.wait(5)

    task = asyncio.create_task(transact(engine, work))
    await asyncio.to_thread(began.wait, 5)
    for _ in range(times):
        task.cancel()
        ended, _ = await asyncio.wait([task], timeout=0.05)
        assert not ended
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0


@pytest.fixture
def postgres_engine(outbox_postgres_url: str) -> Iterator[Engine]:
    """Without a lock_timeout, which would end a wait for the table before anything else does."""
    engine = create_engine(outbox_postgres_url)
    yield engine
    engine.dispose()


class Claimer:
    """A worker's claims, one event each."""

    def __init__(self, engine: Engine, outbox: Outbox) -> None:
        self._engine = for_single_statements(engine)
        self._scan = Scan(outbox)

    async def claimed_ids(self) -> list[int]:
        return [event.id for event in await transact(self._engine, self._claim)]

    def _claim(self, connection: Connection) -> list[Event]:
        return self._scan.claim(connection, types=TYPES, token=uuid4().hex, lease=LEASE, limit=1)


def has_lock(engine: Engine, outbox: Outbox, *, granted: bool) -> bool:
    locks = "SELECT FROM pg_locks JOIN pg_class ON oid = relation WHERE relname = :name AND granted = :granted"
    with engine.connect() as connection:
        return connection.execute(text(locks), {"name": outbox.name, "granted": granted}).first() is not None


async def test_claim_that_was_given_up_while_it_waited_for_the_table_takes_nothing(
    postgres_engine: Engine, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server carries it out all the same, for a worker that has gone on without it."""
    monkeypatch.setattr("sqlalchemy_outbox.database.transaction.DEADLINE", timedelta(seconds=1))
    queue, claimer = Queue(postgres_engine, outbox), Claimer(postgres_engine, outbox)
    first, second, third, fourth = queue.put("a", "b", "c", "d")
    # Then it has looked at everything else once, and looks for what is next.
    assert [await claimer.claimed_ids() for _ in range(2)] == [[first], [second]]
    with postgres_engine.connect() as migration:
        migration.execute(text(f"LOCK TABLE {outbox.name} IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(DBAPIError):
            await claimer.claimed_ids()
        assert has_lock(postgres_engine, outbox, granted=False)
        migration.rollback()
    await eventually(lambda: not any(has_lock(postgres_engine, outbox, granted=it) for it in (True, False)))
    assert [queue.row(id_).claim_token for id_ in (third, fourth)] == [None, None]


async def test_what_a_claim_did_not_take_because_it_waited_is_taken_by_the_next(
    postgres_engine: Engine, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, claimer = Queue(postgres_engine, outbox), Claimer(postgres_engine, outbox)
    first, second, third, fourth = queue.put("a", "b", "c", "d")
    assert [await claimer.claimed_ids() for _ in range(2)] == [[first], [second]]
    monkeypatch.setattr("sqlalchemy_outbox.claiming.scan.BUDGET_SHARE", 0.05)
    with postgres_engine.connect() as migration:
        migration.execute(text(f"LOCK TABLE {outbox.name} IN ACCESS EXCLUSIVE MODE"))
        late = asyncio.create_task(claimer.claimed_ids())
        ended, _ = await asyncio.wait([late], timeout=0.05 * DEADLINE.total_seconds() + 0.2)
        assert not ended
        migration.rollback()
    with pytest.raises(sqlalchemy.exc.TimeoutError):
        await late
    monkeypatch.undo()
    assert [await claimer.claimed_ids() for _ in range(2)] == [[third], [fourth]]
