"""A worker's transactions run in threads; whoever gives one up knows afterwards that its connection is back."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, QueuePool, create_engine, text
from sqlalchemy.exc import DBAPIError

from outbox import claims
from outbox.claims import Claimed, Look
from outbox.lease import LEASE
from outbox.model import Outbox
from outbox.transaction import for_single_statements, transact
from tests.outbox.queue import Queue
from tests.outbox.test_worker import eventually


async def test_cancelled_transaction_has_given_its_connection_back(engine: Engine) -> None:
    """Or who disposes of the engine next leaves that connection open."""
    began, go_on = threading.Event(), threading.Event()

    def work(_connection: Connection) -> None:
        began.set()
        go_on.wait(5)

    task = asyncio.create_task(transact(engine, work))
    await asyncio.to_thread(began.wait, 5)
    task.cancel()
    ended, _ = await asyncio.wait([task], timeout=0.05)
    assert not ended
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0


async def test_claim_that_was_given_up_while_it_waited_for_the_table_takes_nothing(
    outbox_postgres_url: str, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server carries it out all the same, for a worker that has gone on without it."""
    monkeypatch.setattr("outbox.transaction.DEADLINE", timedelta(seconds=1))
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    (id_,) = queue.put("a")

    def claim(connection: Connection) -> Claimed:
        return claims.claim(connection, outbox, Look(), types=queue.types, token="t", lease=LEASE, limit=50)

    def has_lock(*, granted: bool) -> bool:
        locks = "SELECT FROM pg_locks JOIN pg_class ON oid = relation WHERE relname = :name AND granted = :granted"
        with engine.connect() as connection:
            return connection.execute(text(locks), {"name": outbox.name, "granted": granted}).first() is not None

    with engine.connect() as migration:
        migration.execute(text(f"LOCK TABLE {outbox.name} IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(DBAPIError):
            await transact(for_single_statements(engine), claim)
        assert has_lock(granted=False)
        migration.rollback()
    await eventually(lambda: not has_lock(granted=False) and not has_lock(granted=True))
    assert queue.row(id_).claim_token is None
    assert [event.id for event in (await transact(for_single_statements(engine), claim)).events] == [id_]
    engine.dispose()
