"""pgqueuer at work: `python -m bench.peers.with_pgqueuer URL`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import asyncpg
from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, Job, PgQueuer, Queries
from pgqueuer.types import QueueExecutionMode

from bench.peers.protocol import serve

_URL = sys.argv[1]
_QUEUED_AT_ONCE = 1000
_is_installed = False


async def _prepare(events: int) -> None:
    global _is_installed
    connection = await asyncpg.connect(_URL)
    queries = Queries(AsyncpgDriver(connection))
    if not _is_installed:
        await queries.install()
        _is_installed = True
    await connection.execute("TRUNCATE pgqueuer, pgqueuer_log")
    for start in range(0, events, _QUEUED_AT_ONCE):
        count = min(_QUEUED_AT_ONCE, events - start)
        await queries.enqueue(["measured"] * count, [b'{"user_id": "7b1f8f6e"}'] * count, [0] * count)
    await connection.execute("VACUUM (ANALYZE) pgqueuer")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def _run(batch_size: int, is_pooled: bool) -> float:
    """Seconds from the start to the last handler's call."""
    ended_at = 0.0

    async def handle(_job: Job) -> None:
        nonlocal ended_at
        ended_at = time.perf_counter()

    if is_pooled:
        async with asyncpg.create_pool(_URL, min_size=4, max_size=4) as pool:
            return await _drain(PgQueuer(AsyncpgPoolDriver(pool)), handle, batch_size, lambda: ended_at)
    connection = await asyncpg.connect(_URL)
    try:
        return await _drain(PgQueuer(AsyncpgDriver(connection)), handle, batch_size, lambda: ended_at)
    finally:
        await connection.close()


async def _drain(queue: PgQueuer, handle: Any, batch_size: int, ended_at: Any) -> float:
    queue.entrypoint("measured")(handle)
    began_at = time.perf_counter()
    await queue.qm.run(mode=QueueExecutionMode.drain, batch_size=batch_size)
    return float(ended_at() - began_at)


def drain(events: int, batch_size: int, is_pooled: bool) -> dict[str, Any]:
    asyncio.run(_prepare(events))
    return {"seconds": asyncio.run(_run(batch_size, is_pooled))}


if __name__ == "__main__":
    serve({"drain": drain})
