"""A purge leaves nothing behind that is told of its events, holds its locks for a moment, and spares what is failed."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, create_engine, text

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.housekeeping.purge import Purge
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.outcome import Delivered
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.plans import buffers, execute, explain, sent_by
from tests.outbox.queue import TYPES, Queue
from tests.outbox.test_claim_plans import load
from tests.outbox.test_operations import deliver, fail, keep_delivery, rows_of
from tests.outbox.test_worker import eventually, running

RETENTION = timedelta(days=30)
BEYOND = timedelta(days=31)


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def kept(queue: Queue) -> tuple[int, int, int]:
    return rows_of(queue, "deliveries"), rows_of(queue, "delivery_events"), rows_of(queue, "audit_events")


def steps_of(purge: Purge, engine: Engine) -> list[int]:
    """What each step deletes, until it is over."""
    counts: list[int] = []
    while not counts or not purge.is_over:
        assert len(counts) < 50
        with engine.begin() as connection:
            counts.append(purge.step(connection))
    return counts


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


def purge_once(queue: Queue, *, window: int) -> None:
    with queue.engine.begin() as connection:
        Purge(queue.outbox, RETENTION, window=window).step(connection)


def test_purge_of_events_with_many_requests_takes_fewer_of_them_at_once(queue: Queue) -> None:
    ids = deliver(queue, "a", "b", "c")
    for _ in range(4):
        keep_delivery(queue, *ids)
    for _ in range(6):
        keep_delivery(queue, ids[2])
    queue.pass_time(BEYOND)
    assert steps_of(Purge(queue.outbox, RETENTION, links_max=5), queue.engine) == [1, 1, 1]
    assert kept(queue) == (0, 0, 0)


def test_purges_at_once_leave_no_delivery_without_events(outbox_postgres_url: str, outbox: Outbox) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    keep_delivery(queue, *deliver(queue, "a", "b"))
    queue.pass_time(BEYOND)
    other = threading.Thread(target=queue.purge, args=(RETENTION, 1))
    with engine.begin() as connection:
        assert Purge(outbox, RETENTION, at_once=1).step(connection) == 1
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


def deliver_behind_a_failed_one(queue: Queue, events: int) -> int:
    """So many events of one subject that must stay; the id of the failed one."""
    (failed,) = fail(queue, "kept")
    for _ in range(events):
        deliver(queue, "kept")
    return failed


def test_what_must_stay_is_passed_by_in_bounded_steps(queue: Queue) -> None:
    deliver_behind_a_failed_one(queue, 9)
    deliver(queue, "a", "b")
    queue.pass_time(BEYOND)
    assert steps_of(Purge(queue.outbox, RETENTION, window=4), queue.engine) == [0, 0, 2]


def test_a_step_reads_no_more_however_much_has_to_stay(outbox_postgres_url: str, outbox: Outbox) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    fail(queue, "driver-0")
    needed = []
    for events in (1_000, 9_000):
        load(engine, events, 1, are_delivered=True)
        execute(engine, "VACUUM ANALYZE outbox_events")
        queue.pass_time(BEYOND)
        sent = sent_by(engine, partial(purge_once, queue, window=100))
        needed.append(max(buffers(explain(engine, it)) for it in sent))
    few, many = needed
    assert many <= few * 1.1 + 20
    engine.dispose()


def test_events_that_were_settled_together_are_all_looked_at(queue: Queue) -> None:
    """They have one instant, on which a window may end."""
    fail(queue, "a")
    deliver(queue, *"aaaaabc")
    deliver(queue, "d")
    queue.pass_time(BEYOND)
    assert sum(steps_of(Purge(queue.outbox, RETENTION, window=3), queue.engine)) == 3


def test_later_steps_go_on_where_the_last_ended_and_begin_anew_once_in_a_while(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = deliver_behind_a_failed_one(queue, 4)
    queue.pass_time(BEYOND)
    purge = Purge(queue.outbox, RETENTION, window=2)
    assert steps_of(purge, queue.engine) == [0, 0, 0]
    queue.discard(failed)
    deliver(queue, "a")
    queue.pass_time(BEYOND - timedelta(minutes=1))
    assert sum(steps_of(purge, queue.engine)) == 2  # The later one, and the discarded.
    an_hour_later = time.monotonic() + 3600
    monkeypatch.setattr("sqlalchemy_outbox.housekeeping.purge.time", SimpleNamespace(monotonic=lambda: an_hour_later))
    assert sum(steps_of(purge, queue.engine)) == 4


def test_lap_that_is_due_waits_for_the_end_of_the_last(queue: Queue) -> None:
    deliver_behind_a_failed_one(queue, 9)
    deliver(queue, "a")
    queue.pass_time(BEYOND)
    assert steps_of(Purge(queue.outbox, RETENTION, window=4, full_pass_every=timedelta(0)), queue.engine) == [0, 0, 1]


def test_what_a_step_deleted_that_did_not_commit_is_found_again(queue: Queue) -> None:
    deliver(queue, *"abc")
    queue.pass_time(BEYOND)
    purge = Purge(queue.outbox, RETENTION, window=2)
    with queue.engine.connect() as connection:
        purge.step(connection)
    purge.failed()
    assert not purge.is_due()
    assert sum(steps_of(purge, queue.engine)) == 3


async def test_worker_that_may_not_delete_delivers_all_the_same(
    outbox_postgres_url: str, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    deliver(queue, "a")
    queue.pass_time(BEYOND)
    execute(
        engine,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not here'; END $$;"
        "CREATE TRIGGER refuse BEFORE DELETE ON outbox_events EXECUTE FUNCTION refuse()",
    )
    gate = Gate(outbox, engine, requests_per_second=1000)
    worker = Worker(outbox, engine, RecordingDestination(), gate, types=TYPES, retention=RETENTION)
    async with running(worker):
        await eventually(lambda: "Could not purge" in caplog.text)
        (id_,) = await asyncio.to_thread(queue.put, "b")
        await eventually(lambda: queue.row(id_).processed_at is not None)
    assert caplog.text.count("Could not purge") == 1
    engine.dispose()
