"""What an operator sees and does: the same on both databases, page by page and batch by batch."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Engine, func, select, update

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import ATTEMPTS_MAX, GateState, Outbox, State
from sqlalchemy_outbox.operations import EventFilter, EventIds, Progress
from sqlalchemy_outbox.outcome import Delivered, Outcome, Rejected
from sqlalchemy_outbox.settling import deliveries
from sqlalchemy_outbox.settling.deliveries import Delivery
from tests.outbox.queue import TYPES, Queue


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlalchemy_outbox.operations.BATCH_SIZE", 2)


def settle(queue: Queue, outcome: Outcome, *subjects: str) -> list[int]:
    ids = queue.put(*subjects)
    for _ in subjects:
        token, events = queue.claim()
        queue.settle(token, events, outcome)
    return ids


def fail(queue: Queue, *subjects: str, error: str = "never") -> list[int]:
    return settle(queue, Rejected(error), *subjects)


def deliver(queue: Queue, *subjects: str) -> list[int]:
    return settle(queue, Delivered(), *subjects)


def keep_delivery(queue: Queue, *ids: int, outcome: str = "delivered") -> None:
    with queue.engine.begin() as connection:
        kept = Delivery("upsert", time.monotonic(), timedelta(0), outcome, dict.fromkeys(ids, f"{outcome} it"))
        deliveries.write(connection, queue.outbox, [kept])


def found(queue: Queue, filter_: EventFilter, before: int | None = None, limit: int = 50) -> list[int]:
    return [it.id for it in operations.find_events(queue.engine, queue.outbox, filter_, before=before, limit=limit)]


def rows_of(queue: Queue, name: str) -> int:
    with queue.engine.connect() as connection:
        table = getattr(queue.outbox.records, name)
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_events_are_found_by_what_they_have_in_common_newest_first(queue: Queue) -> None:
    failed = fail(queue, "a")
    (delivered,) = deliver(queue, "a")
    (claimed,) = queue.put("b")
    queue.claim()
    (pending,) = queue.put("b", event_type="another")
    assert found(queue, EventFilter()) == [pending, claimed, delivered, *failed]
    for state, id_ in zip(State, (pending, claimed, delivered, *failed), strict=True):
        assert found(queue, EventFilter(state)) == [id_]
        assert found(queue, EventFilter(state, subject=str(queue.row(id_).subject))) == [id_]
    assert found(queue, EventFilter(subject="a")) == [delivered, *failed]
    assert found(queue, EventFilter(event_type="another")) == [pending]
    assert found(queue, EventFilter(event_type="another", subject="a")) == []
    assert found(queue, EventFilter(reason="never")) == failed
    assert found(queue, EventFilter(State.PENDING, reason="never")) == []
    assert found(queue, EventFilter(older_than=timedelta(hours=1))) == []
    queue.pass_time(timedelta(hours=2))
    assert len(found(queue, EventFilter(older_than=timedelta(hours=1)))) == 4


def test_found_events_say_what_their_rows_say(queue: Queue) -> None:
    (id_,) = fail(queue, "a", error="never 12")
    (summary,) = operations.find_events(queue.engine, queue.outbox, EventFilter())
    row = queue.row(id_)
    assert (summary.state, summary.last_error, summary.attempt_count) == (State.FAILED, "never 12", ATTEMPTS_MAX)
    for name in ("id", "event_id", "event_type", "subject", "created_at", "processed_at", "failed_at", "dry_run"):
        assert getattr(summary, name) == getattr(row, name)


@pytest.mark.parametrize("filter_", [EventFilter(), EventFilter(State.FAILED), EventFilter(subject="a")], ids=str)
def test_pages_together_hold_each_event_once_though_new_ones_come_meanwhile(queue: Queue, filter_: EventFilter) -> None:
    expected = fail(queue, *"aaaaa")
    seen: list[int] = []
    while page := found(queue, filter_, before=seen[-1] if seen else None, limit=2):
        seen += page
        queue.put("a")
    assert seen == expected[::-1]


def test_events_of_a_subject_are_in_order_and_the_last_ones(queue: Queue) -> None:
    a = [*fail(queue, "a"), *deliver(queue, "a"), *queue.put("a")]
    queue.put("b")
    assert [it.id for it in operations.events_of(queue.engine, queue.outbox, "a")] == a
    assert [it.id for it in operations.events_of(queue.engine, queue.outbox, "a", limit=2)] == a[1:]


def test_events_are_read_by_id_and_those_that_do_not_exist_left_out(queue: Queue) -> None:
    ids = queue.put("a", "b")
    event_ids = [queue.row(it).event_id for it in ids]
    read = operations.read_events(queue.engine, queue.outbox, [*event_ids, uuid4()])
    assert [it.id for it in read] == ids


def test_failures_that_differ_in_ids_and_numbers_are_one_reason(queue: Queue) -> None:
    for n in range(3):
        (newest,) = fail(queue, f"s{n}", error=f"contact {n}01 refused ({uuid4()}): balance -{n}.5 is negative")
    fail(queue, "x", error="another")
    many, one = operations.failure_reasons(queue.engine, queue.outbox)
    assert (many.reason, many.count) == ("contact # refused (#): balance #.# is negative", 3)
    assert many.newest.id == newest
    assert (one.reason, one.count) == ("another", 1)
    assert found(queue, EventFilter(reason=many.reason))[0] == newest


def test_failures_without_a_reason_are_found_by_the_empty_one(queue: Queue) -> None:
    (id_,) = queue.put("a")
    events = queue.outbox.events
    with queue.engine.begin() as connection:
        # As an operator's statement may have failed it.
        connection.execute(update(events).values(failed_at=events.c.created_at, attempt_count=ATTEMPTS_MAX))
    (reason,) = operations.failure_reasons(queue.engine, queue.outbox)
    assert (reason.reason, reason.count) == ("", 1)
    assert found(queue, EventFilter(reason="")) == [id_]


def test_history_tells_the_event_its_requests_in_order_and_what_people_did(queue: Queue) -> None:
    a, b = fail(queue, "a", "b")
    (newer,) = deliver(queue, "a")
    keep_delivery(queue, a, b, outcome="refused")
    keep_delivery(queue, b)
    keep_delivery(queue, a, outcome="refused again")
    queue.retry(a)
    event_id = queue.row(a).event_id
    history = operations.read_history(queue.engine, queue.outbox, event_id)
    assert history is not None
    assert (history.summary.state, history.event.payload, history.discarded) == (State.PENDING, '{"n":0}', None)
    assert [it.outcome for it in history.deliveries] == ["refused", "refused again"]
    assert history.delivery_count == 2
    assert (history.deliveries[0].events, history.deliveries[0].outcome_for_event) == (2, "refused it")
    (entry,) = history.audit
    assert (entry.action, entry.by, entry.count) == ("retry", "test", 1)
    assert entry.detail == {"event_ids": [str(event_id)]}
    assert [it.event.id for it in operations.read_newer(queue.engine, queue.outbox, history.event)] == [newer]
    assert operations.read_history(queue.engine, queue.outbox, uuid4()) is None


def test_status_and_pulse_count_what_is_there(queue: Queue) -> None:
    failed = fail(queue, "a")
    deliver(queue, "b", "c")
    keep_delivery(queue, *failed)
    queue.put("d")
    queue.claim()
    queue.put("e")
    status = operations.status(queue.engine, queue.outbox)
    snapshot = operations.snapshot(queue.engine, queue.outbox)
    assert (status.pending, status.claimed, status.delivered, status.failed) == (1, 1, 2, 1)
    assert (snapshot.pending, snapshot.claimed, snapshot.failed) == (1, 1, 1)
    assert (snapshot.delivered_last_minute, snapshot.requests_last_minute) == (2, 1)
    assert status.gate == snapshot.gate
    queue.pass_time(timedelta(minutes=2))
    snapshot = operations.snapshot(queue.engine, queue.outbox)
    assert snapshot.delivered_last_minute == 0
    assert snapshot.oldest_pending_seconds == pytest.approx(120, abs=30)


def test_retry_of_a_selection_moves_each_failed_event_once_in_batches(queue: Queue) -> None:
    ids = fail(queue, *"abcde")
    fail(queue, "x", error="another")
    selection = EventFilter(reason="never")
    assert operations.count(queue.engine, queue.outbox, selection, TYPES) == 5
    assert operations.count(queue.engine, queue.outbox, selection, ["another"]) == 0
    progress = []
    for it in operations.retry(queue.engine, queue.outbox, selection, TYPES, by="cli:ada"):
        progress.append(it)
        # A worker that fails them anew meanwhile must not keep the retry busy.
        token, events = queue.claim()
        queue.settle(token, events, Rejected("never"))
    assert progress == [Progress(0, 5), Progress(2, 5), Progress(4, 5), Progress(5, 5)]
    assert all(queue.row(it).retried_at for it in ids)
    (entry,) = operations.read_audit(queue.engine, queue.outbox)
    assert (entry.action, entry.by, entry.count, entry.detail) == ("retry", "cli:ada", 5, {"reason": "never"})


def test_retry_leaves_alone_what_no_worker_knows(queue: Queue) -> None:
    (id_,) = fail(queue, "a")
    selection = EventIds(frozenset([queue.row(id_).event_id, uuid4()]))
    assert list(operations.retry(queue.engine, queue.outbox, selection, ["another"], by="test")) == [Progress(0, 0)]
    assert queue.row(id_).failed_at is not None
    assert operations.read_audit(queue.engine, queue.outbox) == []


def test_discarded_event_is_gone_and_kept_whole_with_who_and_why(queue: Queue) -> None:
    (id_,) = fail(queue, "a")
    keep_delivery(queue, id_, outcome="refused")
    row = queue.row(id_)
    selection = EventIds(frozenset([row.event_id]))
    assert list(operations.discard(queue.engine, queue.outbox, selection, by="cli:ada", reason="a test's")) == [
        Progress(0, 1),
        Progress(1, 1),
    ]
    assert not queue.exists(id_)
    table = queue.outbox.records.discarded
    with queue.engine.connect() as connection:
        (kept,) = connection.execute(select(table)).all()
    assert {it.name: getattr(kept, it.name) for it in queue.outbox.events.c} == row._asdict()
    history = operations.read_history(queue.engine, queue.outbox, row.event_id)
    assert history is not None
    assert history.discarded is not None
    assert (history.discarded.by, history.discarded.reason) == ("cli:ada", "a test's")
    assert [it.outcome for it in history.deliveries] == ["refused"]
    (entry,) = history.audit
    assert (entry.action, entry.reason, entry.count) == ("discard", "a test's", 1)


def test_only_failed_events_are_discarded(queue: Queue) -> None:
    (pending,) = queue.put("a")
    (delivered,) = deliver(queue, "b")
    event_ids = frozenset(queue.row(it).event_id for it in (pending, delivered))
    for selection in (EventIds(event_ids), EventFilter(), EventFilter(State.PENDING), EventFilter(State.DELIVERED)):
        assert operations.count(queue.engine, queue.outbox, selection) == 0
        assert list(operations.discard(queue.engine, queue.outbox, selection, by="t", reason="r")) == [Progress(0, 0)]
    assert queue.exists(pending)
    assert queue.exists(delivered)
    assert rows_of(queue, "discarded") == 0


def test_later_events_of_a_discarded_ones_subject_are_delivered_as_before(queue: Queue) -> None:
    (failed,) = fail(queue, "a")
    later = queue.put("a", "a")
    list(operations.discard(queue.engine, queue.outbox, EventFilter(subject="a"), by="t", reason="r"))
    assert queue.claimed_ids() == later
    assert not queue.exists(failed)


def test_discard_of_many_goes_in_batches(queue: Queue) -> None:
    fail(queue, *"abcde")
    progress = list(operations.discard(queue.engine, queue.outbox, EventFilter(State.FAILED), by="t", reason="r"))
    assert [it.done for it in progress] == [0, 2, 4, 5]
    assert rows_of(queue, "discarded") == 5
    (entry,) = operations.read_audit(queue.engine, queue.outbox)
    assert entry.count == 5


def test_purge_takes_what_is_told_of_its_events_and_leaves_a_failed_ones(queue: Queue) -> None:
    (failed,) = fail(queue, "f")
    ids = deliver(queue, *"abc")
    keep_delivery(queue, *ids)
    keep_delivery(queue, ids[0], failed)
    queue.pass_time(timedelta(days=31))
    progress = list(operations.purge(queue.engine, queue.outbox, timedelta(days=30), by="cli:ada"))
    assert progress == [Progress(0, 3), Progress(2, 3), Progress(3, 3)]
    assert (rows_of(queue, "deliveries"), rows_of(queue, "delivery_events")) == (1, 1)
    (entry,) = operations.read_audit(queue.engine, queue.outbox)
    assert (entry.action, entry.count) == ("purge", 3)


def test_hold_and_release_are_recorded_and_said(queue: Queue) -> None:
    operations.hold(queue.engine, queue.outbox, "the import runs", by="cli:ada")
    gate = operations.status(queue.engine, queue.outbox).gate
    assert (gate.state, gate.reason, gate.held_by) == (GateState.HELD, "the import runs", "cli:ada")
    before = operations.release(queue.engine, queue.outbox, by="cli:bob")
    assert (before.held_by, before.reason) == (gate.held_by, gate.reason)
    assert operations.status(queue.engine, queue.outbox).gate.state is GateState.OPEN
    released, held = operations.read_audit(queue.engine, queue.outbox)
    assert (held.action, held.by, held.reason) == ("hold", "cli:ada", "the import runs")
    assert (released.action, released.by) == ("release", "cli:bob")


def test_reveal_is_recorded(queue: Queue) -> None:
    operations.reveal(queue.engine, queue.outbox, "driver-1", by="page:Ada")
    (entry,) = operations.read_audit(queue.engine, queue.outbox)
    assert (entry.action, entry.by, entry.detail) == ("reveal", "page:Ada", {"subject": "driver-1"})


def test_audit_is_read_page_by_page(queue: Queue) -> None:
    for n in range(3):
        operations.reveal(queue.engine, queue.outbox, f"driver-{n}", by="t")
    first = operations.read_audit(queue.engine, queue.outbox, limit=2)
    second = operations.read_audit(queue.engine, queue.outbox, before=first[-1].id, limit=2)
    assert [it.detail["subject"] for it in (*first, *second)] == ["driver-2", "driver-1", "driver-0"]


def test_entry_of_many_events_tells_the_first_of_their_ids(queue: Queue) -> None:
    ids = fail(queue, *(f"s{n}" for n in range(25)))
    selection = EventIds(frozenset(queue.row(it).event_id for it in ids))
    list(operations.discard(queue.engine, queue.outbox, selection, by="t", reason="r"))
    (entry,) = operations.read_audit(queue.engine, queue.outbox)
    assert len(entry.detail["event_ids"]) < 25
    assert entry.count == 25


def test_all_sessions_that_would_last_no_longer_are_ended_at_once_and_again(queue: Queue) -> None:
    def is_ended(ends_at: datetime) -> bool:
        return operations.is_session_ended(queue.engine, queue.outbox, "0123abcd", ends_at)

    now = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=12)
    assert not is_ended(now)
    operations.end_all_sessions(queue.engine, queue.outbox, now, by="page:ada")
    assert (is_ended(now), is_ended(now - timedelta(hours=1)), is_ended(now + timedelta(seconds=1))) == (
        True,
        True,
        False,
    )
    # Another one that signs out keeps the row.
    operations.end_session(queue.engine, queue.outbox, "4567ef", now + timedelta(minutes=1), by="page:ada")
    assert is_ended(now)
    operations.end_all_sessions(queue.engine, queue.outbox, now + timedelta(seconds=5), by="page:ada")
    assert is_ended(now + timedelta(seconds=1))
    assert [entry.action for entry in operations.read_audit(queue.engine, queue.outbox)] == ["end sessions"] * 2
