"""procrastinate at work: `python -m bench.peers.with_procrastinate URL`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import psycopg
from procrastinate import App, PsycopgConnector

from bench.peers.protocol import serve

_URL = sys.argv[1]
_DEFERRED_AT_ONCE = 1000
_is_installed = False


async def _run(events: int, concurrency: int, delete_jobs: str) -> float:
    """Seconds from the start to the last task's call."""
    global _is_installed
    ended_at = 0.0
    app = App(connector=PsycopgConnector(conninfo=_URL, min_size=4, max_size=max(4, min(20, concurrency))))

    async def handle(**_payload: object) -> None:
        nonlocal ended_at
        ended_at = time.perf_counter()

    task = app.task(name="measured")(handle)
    async with app.open_async():
        if not _is_installed:
            await app.schema_manager.apply_schema_async()
            _is_installed = True
        with psycopg.connect(_URL, autocommit=True) as connection:
            connection.execute("TRUNCATE procrastinate_jobs CASCADE")
            for start in range(0, events, _DEFERRED_AT_ONCE):
                payloads = [{"user_id": "7b1f8f6e"}] * min(_DEFERRED_AT_ONCE, events - start)
                await task.batch_defer_async(*payloads)
            connection.execute("VACUUM (ANALYZE) procrastinate_jobs")
            connection.execute("CHECKPOINT")
        began_at = time.perf_counter()
        await app.run_worker_async(
            wait=False,
            concurrency=concurrency,
            delete_jobs=delete_jobs,
            listen_notify=False,
            install_signal_handlers=False,
        )
    return ended_at - began_at


def drain(events: int, concurrency: int, delete_jobs: str) -> dict[str, Any]:
    return {"seconds": asyncio.run(_run(events, concurrency, delete_jobs))}


if __name__ == "__main__":
    serve({"drain": drain})
