"""A worker's transactions run in threads; whoever gives one up knows afterwards that its connection is back."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import Connection, Engine, QueuePool

from outbox.transaction import transact


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
