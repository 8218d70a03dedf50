"""What happens next to a pending event, and which events a span of time or a filter finds: alike on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, bindparam, update

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.model import Outbox, State
from sqlalchemy_outbox.operations import EventFilter, Found, Turn
from sqlalchemy_outbox.outcome import Rejected, Retry
from tests.outbox.queue import Queue


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def turn_of(queue: Queue, id_: int) -> Turn | None:
    history = operations.read_history(queue.engine, queue.outbox, queue.event(id_).event_id)
    assert history is not None
    return history.turn


def ahead_of(queue: Queue, id_: int) -> list[int]:
    turn = turn_of(queue, id_)
    assert turn is not None
    return [event.id for event in turn.ahead]


def test_pending_event_says_when_it_is_due_which_attempt_comes_and_what_it_waits_behind(queue: Queue) -> None:
    first, other, second, third = queue.put("a", "b", "a", "a")
    assert turn_of(queue, other) == Turn(1, queue.row(other).available_at, (), 0)
    assert ahead_of(queue, third) == [first, second]
    token, events = queue.claim(limit=1)
    queue.settle(token, events, Retry("later"))
    backing_off = turn_of(queue, first)
    assert backing_off is not None
    assert backing_off.attempt == 2
    assert backing_off.due_at == queue.row(first).available_at > queue.row(first).created_at
    assert [event.id for event in operations.read_queue(queue.engine, queue.outbox, "a")] == [first, second, third]


def test_retried_event_waits_behind_a_younger_one_that_is_claimed_and_nothing_waits_for_what_is_over(
    queue: Queue,
) -> None:
    [failed] = queue.put("a")
    token, events = queue.claim()
    queue.settle(token, events, Rejected("never"))
    assert turn_of(queue, failed) is None
    younger, youngest = queue.put("a", "a")
    assert ahead_of(queue, younger) == []
    queue.claim(limit=1)
    queue.retry(failed)
    assert ahead_of(queue, failed) == [younger]
    assert ahead_of(queue, youngest) == [failed, younger]
    assert turn_of(queue, younger) is None


def test_event_that_is_set_apart_has_no_instant_at_which_it_is_due_and_a_long_queue_is_counted(queue: Queue) -> None:
    ids = queue.put(*["a"] * 9)
    with queue.engine.begin() as connection:
        apart = {"waits_for": "a property", "available_at": DatabaseNow(3.15e9)}
        connection.execute(update(queue.outbox.events).where(queue.outbox.events.c.id == ids[-1]).values(apart))
    turn = turn_of(queue, ids[-1])
    assert turn is not None
    assert (turn.due_at, turn.ahead_count) == (None, 8)
    assert [event.id for event in turn.ahead] == ids[:5]
    assert turn.as_json()["behind_count"] == 8


def test_span_of_time_finds_what_was_enqueued_in_it_also_where_a_clock_was_wrong(queue: Queue) -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    ids = queue.put(*["a"] * 1600)
    events = queue.outbox.events
    # A minute apart; every eighth was written by a clock that ran a year ahead.
    dates = {id_: timedelta(minutes=id_ - ids[0], days=0 if id_ % 8 else 365) for id_ in ids}
    with queue.engine.begin() as connection:
        dated = update(events).where(events.c.id == bindparam("of")).values(created_at=bindparam("at"))
        connection.execute(dated, [{"of": id_, "at": start + later} for id_, later in dates.items()])
    since, until = start + timedelta(minutes=600), start + timedelta(minutes=900)
    right = [id_ for id_ in ids[600:900] if id_ % 8]
    for filter_, expected in (
        (EventFilter(since=since, until=until), right),
        (EventFilter(State.PENDING, since=since, until=until), right),
        (EventFilter(until=start), []),
        (EventFilter(since=start + timedelta(days=999)), []),
        (EventFilter(until=datetime.max.replace(tzinfo=UTC), since=datetime.min.replace(tzinfo=UTC)), ids),
    ):
        found = operations.find_events(queue.engine, queue.outbox, filter_, limit=5000)
        assert [event.id for event in found][::-1] == expected
        assert operations.count_found(queue.engine, queue.outbox, filter_) == Found(len(expected), True)


def test_filter_is_counted_and_where_that_would_take_long_a_least_number_is_told(queue: Queue) -> None:
    queue.put(*"abcdef")
    queue.put("a", event_type="another")
    for filter_, expected in (
        (EventFilter(), Found(7, True)),
        (EventFilter(event_type="another"), Found(1, True)),
        (EventFilter(subject="a"), Found(2, True)),
        (EventFilter(State.FAILED), Found(0, True)),
        (EventFilter(State.DELIVERED, reason="x"), Found(0, True)),
    ):
        assert operations.count_found(queue.engine, queue.outbox, filter_) == expected
    for filter_, least in ((EventFilter(), Found(4, False)), (EventFilter(event_type="another"), Found(1, False))):
        assert operations.count_found(queue.engine, queue.outbox, filter_, looked_at_max=3) == least


def test_export_holds_each_event_of_a_filter_once_newest_first(queue: Queue) -> None:
    ids = queue.put(*"abcde")
    for batches, expected in ((100, ids[::-1]), (2, ids[:0:-1])):
        exported = operations.export_events(
            queue.engine, queue.outbox, EventFilter(State.PENDING), batch_size=2, batches=batches
        )
        assert [event.id for batch in exported for event in batch] == expected
    assert list(operations.export_events(queue.engine, queue.outbox, EventFilter(State.FAILED))) == []
