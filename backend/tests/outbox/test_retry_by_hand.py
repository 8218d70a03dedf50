"""Guarantee 10: a failed event may be retried at any time, and never moves its subject backwards."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.claiming.newer import PAGE_SIZE, Standing, may_be_overtaken
from sqlalchemy_outbox.claiming.scan import Scan
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import ATTEMPTS_MAX, Outbox
from sqlalchemy_outbox.operating import moves
from sqlalchemy_outbox.operating.status import read_status
from sqlalchemy_outbox.operations import EventIds, Progress
from sqlalchemy_outbox.outcome import Delivered, Rejected
from tests.outbox.queue import TYPES, Queue

LONG = timedelta(minutes=10)


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def fail(queue: Queue, subject: str) -> int:
    (id_,) = queue.put(subject)
    token, events = queue.claim()
    queue.settle(token, events, Rejected("never"))
    return id_


def test_retried_event_has_all_its_attempts_again_and_goes_before_younger_ones(queue: Queue) -> None:
    failed = fail(queue, "a")
    (later,) = queue.put("a")
    queue.retry(failed)
    row = queue.row(failed)
    assert (row.attempt_count, row.failed_at, row.last_error) == (0, None, "never")
    assert queue.claimed_ids() == [failed, later]


def test_only_failed_events_are_retried(queue: Queue) -> None:
    (pending,) = queue.put("a")
    selection = EventIds(frozenset([queue.row(pending).event_id]))
    assert operations.count(queue.engine, queue.outbox, selection, TYPES) == 0
    assert list(operations.retry(queue.engine, queue.outbox, selection, TYPES, by="test")) == [Progress(0, 0)]
    assert queue.row(pending).retried_at is None


def test_retried_event_waits_for_a_younger_one_that_is_claimed(queue: Queue) -> None:
    failed = fail(queue, "a")
    queue.put("a")
    token, events = queue.claim()
    queue.retry(failed)
    assert queue.claimed_ids() == []
    queue.settle(token, events, Delivered())
    assert queue.claimed_ids() == [failed]


def test_claim_that_began_before_a_retry_and_one_that_begins_after_never_share_the_subject(
    outbox_postgres_url: str, outbox: Outbox
) -> None:
    """Both see a head: the old snapshot the younger event, the new one the retried. One of them must get nothing."""
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    failed = fail(queue, "a")
    (younger,) = queue.put("a")
    blocker_holds, may_end = threading.Event(), threading.Event()
    claimed: list[list[int]] = []

    def retry_slowly() -> None:
        with queue.engine.begin() as connection:
            moves.retry_failed(connection, outbox, [failed])
            blocker_holds.set()
            may_end.wait(10)

    def claim() -> None:
        with queue.engine.begin() as connection:
            events = Scan(outbox).claim(connection, types=TYPES, token="old", lease=LEASE, limit=10)
        claimed.append([event.id for event in events])

    retrying = threading.Thread(target=retry_slowly)
    retrying.start()
    blocker_holds.wait(10)
    claim()
    may_end.set()
    retrying.join(10)
    claim_after = queue.claimed_ids()
    assert claimed == [[]]
    assert claim_after == [failed, younger]
    engine.dispose()


def test_newer_delivered_events_travel_with_a_retried_one(queue: Queue) -> None:
    failed = fail(queue, "a")
    (newer, other) = queue.put("a", "b")
    token, events = queue.claim()
    queue.settle(token, events, Delivered())
    queue.retry(failed)
    _, (event,) = queue.claim()
    assert may_be_overtaken([event])
    found = list(operations.read_newer(queue.engine, queue.outbox, event))
    assert [(it.event.id, it.standing) for it in found] == [(newer, Standing.DELIVERED)]
    assert other


@pytest.mark.parametrize("count", [0, 1, PAGE_SIZE - 1, PAGE_SIZE, 2 * PAGE_SIZE + 1])
def test_all_that_is_newer_is_read_however_many_there_are_the_newest_first(queue: Queue, count: int) -> None:
    failed = fail(queue, "a")
    newer = queue.put(*["a"] * count)
    token, events = queue.claim(limit=1000)
    queue.settle(token, events, Delivered())
    found = operations.read_newer(queue.engine, queue.outbox, queue.event(failed))
    assert [it.event.id for it in found] == newer[::-1]


def test_newer_events_that_may_have_been_applied_are_told_from_those_that_wait(queue: Queue) -> None:
    failed = fail(queue, "a")
    lost = queue.put("a")
    queue.claim()
    queue.pass_time(LEASE + timedelta(seconds=1))
    queue.charge_lost_leases()
    waiting = queue.put("a")
    found = operations.read_newer(queue.engine, queue.outbox, queue.event(failed))
    assert [(it.event.id, it.standing) for it in found] == [
        (*waiting, Standing.WAITING),
        (*lost, Standing.IN_DOUBT),
    ]


@pytest.mark.parametrize("is_discarded", [False, True])
def test_failed_event_in_doubt_is_heeded_also_once_it_was_discarded(queue: Queue, is_discarded: bool) -> None:
    failed = fail(queue, "a")
    (killer,) = queue.put("a")
    for _ in range(ATTEMPTS_MAX):
        queue.claim()
        queue.pass_time(LONG)
        queue.charge_lost_leases()
        queue.pass_time(LONG)
    if is_discarded:
        queue.discard(killer)
    queue.pass_time(timedelta(days=31))
    assert queue.purge(timedelta(days=30)) == 0
    found = list(operations.read_newer(queue.engine, queue.outbox, queue.event(failed)))
    assert [(it.event.id, it.standing) for it in found] == [(killer, Standing.IN_DOUBT)]
    queue.discard(failed)
    queue.pass_time(timedelta(days=31))
    assert queue.purge(timedelta(days=30)) == 1 + is_discarded


def test_old_delivered_events_are_purged_in_bounded_batches(queue: Queue) -> None:
    queue.put(*(f"driver-{n}" for n in range(30)))
    token, events = queue.claim()
    queue.settle(token, events, Delivered())
    fail(queue, "failed")
    queue.put("pending")
    assert queue.purge(timedelta(days=30)) == 0
    queue.pass_time(timedelta(days=31))
    assert [queue.purge(timedelta(days=30), limit=20) for _ in range(3)] == [20, 10, 0]
    with queue.engine.connect() as connection:
        status = read_status(connection, queue.outbox)
    assert (status.pending, status.failed, status.delivered) == (1, 1, 0)


def test_delivered_event_that_a_failed_one_precedes_is_not_purged(queue: Queue) -> None:
    failed = fail(queue, "a")
    queue.put("a", "b")
    token, events = queue.claim()
    queue.settle(token, events, Delivered())
    queue.pass_time(timedelta(days=31))
    assert queue.purge(timedelta(days=30)) == 1
    queue.retry(failed)
    assert queue.purge(timedelta(days=30)) == 0
    token, events = queue.claim()
    queue.settle(token, events, Delivered())
    assert queue.purge(timedelta(days=30)) == 1
