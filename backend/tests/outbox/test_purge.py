"""A purge leaves nothing behind that is told of its events, holds its locks for a moment, and spares what is failed."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine, text

from outbox import moves, operations
from outbox.gate import Gate
from outbox.model import Outbox
from outbox.outcome import Delivered
from outbox.testing import RecordingDestination
from outbox.worker import Worker
from tests.outbox.queue import TYPES, Queue
from tests.outbox.test_operations import deliver, fail, keep_delivery, rows_of
from tests.outbox.test_worker import eventually, running

RETENTION = timedelta(days=30)
BEYOND = timedelta(days=31)


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def kept(queue: Queue) -> tuple[int, int, int]:
    return rows_of(queue, "deliveries"), rows_of(queue, "delivery_events"), rows_of(queue, "audit_events")


def test_delivery_goes_with_the_last_of_its_events(queue: Queue) -> None:
    ids = deliver(queue, "a", "b", "c")
    keep_delivery(queue, *ids)
    queue.pass_time(BEYOND)
    assert [(queue.purge(RETENTION, limit=1), kept(queue)) for _ in range(4)] == [
        (1, (1, 2, 0)),
        (1, (1, 1, 0)),
        (1, (0, 0, 0)),
        (0, (0, 0, 0)),
    ]


def test_deliveries_of_what_is_failed_or_open_stay(queue: Queue) -> None:
    (failed,), (delivered,) = fail(queue, "f"), deliver(queue, "d")
    (pending,) = queue.put("p")
    for id_ in (failed, pending, delivered):
        keep_delivery(queue, id_)
    queue.pass_time(BEYOND)
    assert queue.purge(RETENTION) == 1
    assert kept(queue) == (2, 2, 0)


def test_retried_event_is_purged_with_its_link_to_the_audit_which_stays(queue: Queue) -> None:
    (id_,) = fail(queue, "a")
    queue.retry(id_)
    token, events = queue.claim()
    queue.settle(token, events, Delivered())
    assert kept(queue) == (0, 0, 1)
    queue.pass_time(BEYOND)
    assert queue.purge(RETENTION) == 1
    assert kept(queue) == (0, 0, 0)
    assert len(operations.read_audit(queue.engine, queue.outbox)) == 1


def test_discarded_events_are_kept_as_long_as_delivered_ones(queue: Queue) -> None:
    (id_,) = fail(queue, "a")
    keep_delivery(queue, id_)
    queue.discard(id_)
    assert queue.purge(RETENTION) == 0
    assert (rows_of(queue, "discarded"), kept(queue)) == (1, (1, 1, 1))
    queue.pass_time(BEYOND)
    assert queue.purge(RETENTION) == 1
    assert (rows_of(queue, "discarded"), kept(queue)) == (0, (0, 0, 0))


def test_purge_of_events_with_many_requests_takes_fewer_of_them_at_once(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.moves._LINKS_MAX", 5)
    ids = deliver(queue, "a", "b", "c")
    for _ in range(4):
        keep_delivery(queue, *ids)
    for _ in range(6):
        keep_delivery(queue, ids[2])
    queue.pass_time(BEYOND)
    assert [queue.purge(RETENTION) for _ in range(4)] == [1, 1, 1, 0]
    assert kept(queue) == (0, 0, 0)


def test_purges_at_once_leave_no_delivery_without_events(outbox_postgres_url: str, outbox: Outbox) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    keep_delivery(queue, *deliver(queue, "a", "b"))
    queue.pass_time(BEYOND)
    other = threading.Thread(target=queue.purge, args=(RETENTION, 1))
    with engine.begin() as connection:
        assert moves.purge(connection, outbox, RETENTION, 1) == 1
        other.start()
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
            while not watcher.execute(waiting).scalar_one() and other.is_alive():
                pass
    other.join(30)
    assert kept(queue) == (0, 0, 0)
    engine.dispose()


async def test_idle_worker_purges_what_is_told_of_old_events_too(queue: Queue) -> None:
    keep_delivery(queue, *deliver(queue, "a", "b"))
    queue.pass_time(BEYOND)
    gate = Gate(queue.outbox, queue.engine, requests_per_second=1000)
    worker = Worker(queue.outbox, queue.engine, RecordingDestination(), gate, types=TYPES, retention=RETENTION)
    async with running(worker):
        await eventually(lambda: kept(queue) == (0, 0, 0))
