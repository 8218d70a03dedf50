"""The outbox's own worker with a destination that costs nothing: every event is delivered at once, past no gate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Engine

from bench.table import EVENT_TYPE, OUTBOX
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim, Deliver
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.outcome import Delivered, Outcome

# Where a destination enters the gate, the rate must not be what is measured.
REQUESTS_PER_SECOND = 1_000_000.0
_DELIVERED = Delivered()


async def deliver_at_once(claim: Claim, _gate: Gate) -> Mapping[int, Outcome]:
    return {event.id: _DELIVERED for event in claim.events}


async def deliver_through_gate(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
    await gate.enter(claim.lease)
    return {event.id: _DELIVERED for event in claim.events}


def make_worker(
    engine: Engine, deliver: Deliver = deliver_at_once, *, batch_size: int = 50, concurrency: int = 4
) -> Worker:
    gate = Gate(OUTBOX, engine, REQUESTS_PER_SECOND)
    return Worker(OUTBOX, engine, deliver, gate, types=[EVENT_TYPE], batch_size=batch_size, concurrency=concurrency)


def drain(engine: Engine, *, batch_size: int, concurrency: int = 4) -> float:
    """Deliver everything; the seconds that took, connections included."""
    began_at = time.perf_counter()
    asyncio.run(make_worker(engine, batch_size=batch_size, concurrency=concurrency).drain())
    return time.perf_counter() - began_at


@contextmanager
def in_thread(worker: Worker) -> Iterator[None]:
    thread = threading.Thread(target=lambda: asyncio.run(worker.run()))
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()
