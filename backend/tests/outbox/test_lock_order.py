"""No deadlock goes through the outbox: an enqueue waits for no lock of a worker, nor a worker for one of an enqueue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import TYPES, Queue

DRIVERS = ["a", "b", "c", "d"]


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    """PostgreSQL alone: SQLite has one writer at a time, so nobody can wait in a circle."""
    engine = create_engine(outbox_postgres_url, pool_size=20)
    yield engine
    engine.dispose()


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def worker_of(queue: Queue, recorder: RecordingDestination) -> Worker:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=10_000)
    return Worker(queue.outbox, queue.engine, recorder, gate, types=TYPES, batch_size=5)


def track(session: Session, subjects: list[str]) -> None:
    for subject in subjects:
        enqueue(session, OUTBOX, TYPES[0], subject, {})


def test_enqueue_waits_for_no_row_that_a_worker_has_locked(queue: Queue) -> None:
    before = queue.put(*DRIVERS)
    with queue.engine.begin() as worker:
        worker.execute(text("SELECT id FROM outbox_events FOR UPDATE"))
        # An enqueue that had to wait would give up after a second, and its event would be lost.
        after = queue.put(*reversed(DRIVERS))
    assert len(after) == len(before)


async def test_worker_waits_for_no_enqueue_that_has_not_committed(queue: Queue) -> None:
    before = queue.put(*DRIVERS, *DRIVERS)
    recorder = RecordingDestination()
    with uncommitted(queue.engine, DRIVERS), uncommitted(queue.engine, DRIVERS[::-1]):
        async with asyncio.timeout(10):
            await worker_of(queue, recorder).drain()
        assert sorted(it.id for it in recorder.events) == before
    async with asyncio.timeout(10):
        await worker_of(queue, recorder).drain()
    assert len(recorder.events) == len(before) + 2 * len(DRIVERS)


async def test_transactions_in_opposite_order_and_the_workers_among_them_never_deadlock(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Leases are renewed while deliveries are settled all the time, as they are now and then in an hour.
    monkeypatch.setattr("sqlalchemy_outbox.delivering.in_flight.RENEW_EVERY", timedelta(milliseconds=1))
    transactions = 60
    recorder = RecordingDestination()
    workers = [worker_of(queue, recorder) for _ in range(2)]
    running = [asyncio.create_task(it.run()) for it in workers]
    orders = [DRIVERS, DRIVERS[::-1], DRIVERS[2:] + DRIVERS[:2]]
    await asyncio.gather(*(asyncio.to_thread(commit_often, queue.engine, it, transactions) for it in orders))
    expected = transactions * len(orders) * len(DRIVERS)
    async with asyncio.timeout(60):
        while len(recorder.events) < expected:  # noqa: ASYNC110  # The destination has no event to wait on.
            await asyncio.sleep(0.01)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    queue.engine.dispose()
    assert count_deadlocks(queue.engine) == 0
    assert len({it.id for it in recorder.events}) == len(recorder.events) == expected


def commit_often(engine: Engine, subjects: list[str], transactions: int) -> None:
    for _ in range(transactions):
        with Session(engine) as session, session.begin():
            track(session, subjects)


@contextmanager
def uncommitted(engine: Engine, subjects: list[str]) -> Iterator[None]:
    """Meanwhile, a transaction has written its events and not committed; it commits at the end."""
    has_written, may_commit = threading.Event(), threading.Event()

    def pause(_session: Session) -> None:
        has_written.set()
        may_commit.wait(30)

    def commit() -> None:
        with Session(engine) as session:
            track(session, subjects)
            event.listen(session, "before_commit", pause)
            session.commit()

    thread = threading.Thread(target=commit)
    thread.start()
    assert has_written.wait(10)
    try:
        yield
    finally:
        may_commit.set()
        thread.join(10)


def count_deadlocks(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(
            text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        ).scalar_one()
