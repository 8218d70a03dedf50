"""Workers in real processes: asked to stop in the middle of a delivery, and killed by an event."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import ATTEMPTS_MAX, Outbox
from tests.outbox.process import DEATH, STOP_DEADLINE, worker_process
from tests.outbox.queue import Queue

LONG = timedelta(minutes=10)
# A machine at its limit starts a process late.
PATIENCE_SECONDS = 60


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def await_delivery(queue: Queue, ids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(queue.row(id_).processed_at is None for id_ in ids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigterm_settles_what_ends_in_time_and_hands_back_the_rest_uncharged(queue: Queue) -> None:
    ended, late = queue.put("slow", "endless")
    with worker_process(queue.engine, batch_size=1, concurrency=2) as process:
        assert process.stdout is not None
        assert {process.stdout.readline().strip() for _ in range(2)} == {"slow", "endless"}
        process.terminate()
        assert process.wait(STOP_DEADLINE.total_seconds() + PATIENCE_SECONDS) == 0
    assert queue.row(ended).processed_at is not None
    row = queue.row(late)
    assert (row.claim_token, row.attempt_count, row.processed_at, row.last_error) == (None, 0, None, None)


def test_event_that_kills_its_process_three_times_is_failed_alone(queue: Queue) -> None:
    """Also those of other subjects that were claimed with it, and the later one of its own, arrive."""
    killer, *neighbours = queue.put("killer", "a", "killer", "b")
    for attempt in range(1, ATTEMPTS_MAX + 1):
        with worker_process(queue.engine, batch_size=50, concurrency=1) as process:
            assert process.wait(PATIENCE_SECONDS) == DEATH
        queue.pass_time(LEASE + timedelta(seconds=1))
        queue.charge_lost_leases()
        assert queue.row(killer).attempt_count == attempt
        queue.pass_time(LONG)
    with worker_process(queue.engine, batch_size=50, concurrency=1):
        await_delivery(queue, neighbours)
    row = queue.row(killer)
    assert (row.failed_at is not None, row.processed_at) == (True, None)
    assert [queue.row(it).attempt_count for it in neighbours] == [1, 0, 1]
