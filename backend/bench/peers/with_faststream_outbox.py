"""faststream-outbox at work: `python -m bench.peers.with_faststream_outbox URL`."""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
import time
from typing import Any

from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from bench.peers.protocol import serve

_URL = sys.argv[1]
_PUBLISHED_AT_ONCE = 1000
_PAYLOAD = {"user_id": "7b1f8f6e-6f0c-4c56-9a55-0d0f3c7f1a11", "amount": 120, "earned_at": "2026-11-24T06:40:02.123Z"}
_METADATA = MetaData()
_OUTBOX = make_outbox_table(_METADATA, table_name="peer_outbox")
_ORDERS = Table("orders", _METADATA, Column("id", Integer, primary_key=True), Column("item", Text, nullable=False))


def _engine(driver: str) -> Any:
    return create_async_engine(_URL.replace("postgresql:", f"postgresql+{driver}:"), pool_size=40)


async def _prepare(engine: Any) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(_METADATA.create_all)
        await connection.execute(text("TRUNCATE peer_outbox, orders"))


async def _drain(events: int, fetch_batch_size: int, max_workers: int, flush_batch_size: int, driver: str) -> float:
    """Seconds from the start to the last handler's call."""
    engine = _engine(driver)
    await _prepare(engine)
    broker = OutboxBroker(engine, outbox_table=_OUTBOX, logger=None, log_level=logging.ERROR)
    count, ended_at, is_done = 0, 0.0, asyncio.Event()

    async def handle(_payload: dict[str, Any]) -> None:
        nonlocal count, ended_at
        count += 1
        if count == events:
            ended_at = time.perf_counter()
            is_done.set()

    broker.subscriber(
        "measured",
        max_workers=max_workers,
        fetch_batch_size=fetch_batch_size,
        terminal_flush_batch_size=flush_batch_size,
        min_fetch_interval=0.01,
    )(handle)
    for start in range(0, events, _PUBLISHED_AT_ONCE):
        async with AsyncSession(engine) as session, session.begin():
            payloads = [_PAYLOAD] * min(_PUBLISHED_AT_ONCE, events - start)
            await broker.publish_batch(*payloads, queue="measured", session=session)
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM (ANALYZE) peer_outbox"))
        await connection.execute(text("CHECKPOINT"))
    began_at = time.perf_counter()
    await broker.start()
    await is_done.wait()
    await broker.stop()
    await engine.dispose()
    return ended_at - began_at


async def _publish(transactions: int, events: int, driver: str) -> dict[str, Any]:
    """Median seconds of a business transaction alone, and of one that publishes so many events, taking turns."""
    engine = _engine(driver)
    await _prepare(engine)
    broker = OutboxBroker(engine, outbox_table=_OUTBOX, logger=None)
    alone: list[float] = []
    published: list[float] = []
    for _ in range(transactions):
        for count, samples in ((0, alone), (events, published)):
            began_at = time.perf_counter()
            async with AsyncSession(engine) as session:
                await session.execute(insert(_ORDERS).values(item="a coffee"))
                for _ in range(count):
                    await broker.publish(_PAYLOAD, queue="measured", session=session)
                await session.commit()
            samples.append(time.perf_counter() - began_at)
    await engine.dispose()
    return {"alone": statistics.median(alone), "published": statistics.median(published)}


def drain(**settings: Any) -> dict[str, Any]:
    return {"seconds": asyncio.run(_drain(**settings))}


def publish(transactions: int, events: int, driver: str) -> dict[str, Any]:
    return asyncio.run(_publish(transactions, events, driver))


if __name__ == "__main__":
    serve({"drain": drain, "publish": publish})
