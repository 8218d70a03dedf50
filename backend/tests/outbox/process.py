"""A worker in a process of its own, which can be told to stop and can die: `python -m tests.outbox.process URL`.

Its destination does as the subject says: `killer` ends the process at its first event (n = 0), `slow` is delivered
a moment after the worker was asked to stop, `endless` never is; any other is delivered at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine, create_engine

from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.delivering import in_flight
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Delivered, Outcome
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import TYPES

STOP_DEADLINE = timedelta(seconds=2)
DEATH = 9
_MOMENT_SECONDS = 0.3


@contextmanager
def worker_process(engine: Engine, *, batch_size: int, concurrency: int) -> Iterator[subprocess.Popen[str]]:
    """A worker on the engine's database. Its output has a line for each event that it begins to deliver."""
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.outbox.process", url, str(batch_size), str(concurrency)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def _deliver(event: Event, is_stopping: asyncio.Event) -> Outcome:
    print(event.subject, flush=True)  # noqa: T201
    if event.subject == "killer" and json.loads(event.payload)["n"] == 0:
        os._exit(DEATH)
    if event.subject == "slow":
        await is_stopping.wait()
        await asyncio.sleep(_MOMENT_SECONDS)
    if event.subject == "endless":
        await asyncio.Event().wait()
    return Delivered()


async def _run(engine: Engine, batch_size: int, concurrency: int) -> None:
    is_stopping = asyncio.Event()

    async def deliver(claim: Claim, _gate: Gate) -> Mapping[int, Outcome]:
        return {event.id: await _deliver(event, is_stopping) for event in claim.events}

    def stop() -> None:
        worker.stop()
        is_stopping.set()

    gate = Gate(OUTBOX, engine, requests_per_second=1000)
    worker = Worker(OUTBOX, engine, deliver, gate, types=TYPES, batch_size=batch_size, concurrency=concurrency)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await worker.run()


if __name__ == "__main__":
    in_flight.STOP_DEADLINE = STOP_DEADLINE
    _engine = create_engine(sys.argv[1])
    configure_engine(_engine)
    asyncio.run(_run(_engine, int(sys.argv[2]), int(sys.argv[3])))
