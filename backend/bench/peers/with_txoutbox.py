"""txoutbox at work: `python -m bench.peers.with_txoutbox URL`; README.md says what it guarantees."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import pairwise
from typing import Any

import asyncpg
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.postgres import PostgresStorage

from bench.peers.protocol import serve

_URL = sys.argv[1]
_KEYS = 2_000
_PAYLOAD = {"user_id": "7b1f8f6e-6f0c-4c56-9a55-0d0f3c7f1a11", "amount": 120, "earned_at": "2026-11-24T06:40:02.123Z"}
_METADATA = MetaData()
_ORDERS = Table("orders", _METADATA, Column("id", Integer, primary_key=True), Column("item", Text, nullable=False))
# `PostgresStorage.insert` adds one message a statement, which for a backlog would take longer than its drain.
_LOAD = """
INSERT INTO outbox (topic, key, payload)
SELECT 'measured', 'driver-' || (n % $2), $3 FROM generate_series(1, $1) AS numbers(n) ORDER BY n
"""


class OrderBroken(Exception):
    """A message was published twice, or before an earlier one of its key."""


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """Instead of the statement by which asyncpg resets a returned connection: nothing here leaves anything behind."""


def _pool(connections: int) -> Any:
    return asyncpg.create_pool(_URL, min_size=connections, max_size=connections, reset=_leave_as_it_is)


async def _load(storage: PostgresStorage, events: int) -> None:
    await storage.create_schema()
    await storage.pool.execute("TRUNCATE outbox")
    await storage.pool.execute(_LOAD, events, _KEYS, json.dumps(_PAYLOAD).encode())
    await storage.pool.execute("VACUUM (ANALYZE) outbox")
    await storage.pool.execute("CHECKPOINT")


async def _drain(events: int, batch_size: int, relays: int, delete_on_ack: bool) -> float:
    """Seconds from the start to the last publisher's call."""
    published: list[OutboxMessage] = []
    ended_at, is_done = 0.0, asyncio.Event()

    async def publish(message: OutboxMessage) -> None:
        nonlocal ended_at
        published.append(message)
        if len(published) == events:
            ended_at = time.perf_counter()
            is_done.set()

    # A round that outlasts its lease can break the order: `publish_timeout` stays on, and the lease exceeds the longest
    # round that it allows, 250 s.
    config = RelayConfig(batch_size=batch_size, concurrency=10, lease=timedelta(minutes=5), poll_min=0.001)
    async with _pool(relays) as pool:
        # Strict ordering is its default, and is what keeps the order of a key.
        storage = PostgresStorage(pool, delete_on_ack=delete_on_ack)
        await _load(storage, events)
        began_at = time.perf_counter()
        async with AsyncExitStack() as stack:
            for _ in range(relays):
                await stack.enter_async_context(Relay(storage, publish, config=config))
            await is_done.wait()
    _check_order(published)
    return ended_at - began_at


def _check_order(published: Iterable[OutboxMessage]) -> None:
    """Each key's messages came once, in the order of their ids; raises OrderBroken."""
    ids: defaultdict[str | None, list[Any]] = defaultdict(list)
    for message in published:
        ids[message.key].append(message.id)
    if any(later <= earlier for of_key in ids.values() for earlier, later in pairwise(of_key)):
        raise OrderBroken(OrderBroken.__doc__)


async def _publish(transactions: int, events: int, within: str) -> dict[str, Any]:
    """Median seconds of a business transaction alone, and of one that inserts so many messages, taking turns."""
    transact = _BUSINESS[within]
    samples: dict[int, list[float]] = {0: [], events: []}
    engine = create_async_engine(_URL.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.begin() as connection:
        await connection.run_sync(_METADATA.create_all)
    async with _pool(1) as pool:
        storage = PostgresStorage(pool)
        await storage.create_schema()
        for _ in range(transactions):
            for count, seconds in samples.items():
                began_at = time.perf_counter()
                await transact(storage, engine, count)
                seconds.append(time.perf_counter() - began_at)
    await engine.dispose()
    return {"alone": statistics.median(samples[0]), "published": statistics.median(samples[events])}


async def _in_session(storage: PostgresStorage, engine: AsyncEngine, events: int) -> None:
    """The messages go by the asyncpg connection beneath the session, whose transaction has begun."""
    async with AsyncSession(engine) as session:
        await session.execute(insert(_ORDERS).values(item="a coffee"))
        if events:
            beneath = await (await session.connection()).get_raw_connection()
            await _insert(storage, beneath.driver_connection, events)
        await session.commit()


async def _in_asyncpg(storage: PostgresStorage, _engine: AsyncEngine, events: int) -> None:
    async with storage.pool.acquire() as connection, connection.transaction():
        await connection.fetchval("INSERT INTO orders (item) VALUES ($1) RETURNING id", "a coffee")
        await _insert(storage, connection, events)


async def _insert(storage: PostgresStorage, connection: Any, events: int) -> None:
    for n in range(events):
        await storage.insert(connection, "measured", _PAYLOAD, key=f"driver-{n}")


_BUSINESS = {"AsyncSession": _in_session, "asyncpg": _in_asyncpg}


def drain(**settings: Any) -> dict[str, Any]:
    return {"seconds": asyncio.run(_drain(**settings))}


def publish(transactions: int, events: int, within: str) -> dict[str, Any]:
    return asyncio.run(_publish(transactions, events, within))


if __name__ == "__main__":
    serve({"drain": drain, "publish": publish})
