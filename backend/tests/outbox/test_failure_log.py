"""What goes wrong with events is said in the log: a few by name, and a storm as one line with a count."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from random import Random
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from sqlalchemy_outbox.delivering.failure_log import COUNT_EVERY, NAMED_MAX, FailureLog
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import ATTEMPTS_MAX, Event, Outbox
from sqlalchemy_outbox.outcome import Outcome, Postponed, Rejected, Retry
from sqlalchemy_outbox.settling.backoff import BACKOFF_MAX
from sqlalchemy_outbox.settling.settlement import Ended, settle, settled
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.queue import Queue
from tests.outbox.test_worker import worker_of

NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def an_event(number: int) -> Event:
    traceparent = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
    return Event(number, uuid4(), "signed_up", f"driver-{number}", "{}", NOW, 0, None, traceparent, None)


def note(failures: FailureLog, outcome: Outcome, numbers: range) -> None:
    events = [an_event(n) for n in numbers]
    settlements = settle(events, {it.id: outcome for it in events}, Random(1))
    failures.note(settled(events, settlements, Ended(frozenset(it.id for it in events), NOW)))


def test_failed_event_is_named_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    note(FailureLog(), Rejected("INVALID_EMAIL"), range(1))
    [record] = caplog.records
    assert "failed: INVALID_EMAIL" in record.getMessage()
    fields = vars(record)
    assert fields["subject"] == "driver-0"
    assert fields["event_id"] in record.getMessage()
    assert (fields["attempt"], fields["trace_id"]) == (3, TRACE_ID)


def test_charged_event_is_said_to_be_tried_again_and_one_handed_back_is_not_mentioned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        note(FailureLog(), Retry("it did not answer"), range(1))
        note(FailureLog(), Postponed(), range(1))
    [record] = caplog.records
    assert "tried again after attempt 1 of 3: it did not answer" in record.getMessage()


def test_storm_of_equal_failures_is_a_few_lines_and_then_one_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    failures = FailureLog(clock)
    for n in range(1000):
        note(failures, Rejected(f"HubSpot refused contact {n}"), range(n, n + 1))
        failures.count()
    assert len(caplog.records) == NAMED_MAX
    clock.seconds = COUNT_EVERY.total_seconds()
    failures.count()
    [*_, last] = [it.getMessage() for it in caplog.records]
    assert len(caplog.records) == NAMED_MAX + 1
    assert last.startswith(f"{1000 - NAMED_MAX} more events failed: HubSpot refused contact #")
    failures.count()
    failures.close()
    assert len(caplog.records) == NAMED_MAX + 1


async def test_worker_that_stops_leaves_no_failure_uncounted(
    engine: Engine, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(engine, outbox)
    queue.put(*(f"driver-{n}" for n in range(40)))

    async def deliver(claim: Claim, _gate: Gate) -> Mapping[int, Outcome]:
        return {event.id: Rejected("no such contact") for event in claim.events}

    await worker_of(queue, deliver).drain()
    lines = [it.getMessage() for it in caplog.records if it.name == "sqlalchemy_outbox.delivering.failure_log"]
    assert len(lines) == NAMED_MAX + 1
    assert lines[-1].startswith(f"{40 - NAMED_MAX} more events failed")


async def test_event_of_which_a_worker_died_for_the_last_time_is_named(
    engine: Engine, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(engine, outbox)
    (id_,) = queue.put("driver-1")
    for _ in range(ATTEMPTS_MAX):
        queue.claim()
        queue.pass_time(LEASE * 2)
        await worker_of(queue, RecordingDestination()).drain()
        queue.pass_time(BACKOFF_MAX)
    assert queue.row(id_).failed_at is not None
    assert (
        f"Event {queue.row(id_).event_id} failed: the worker that had claimed it stopped answering" in caplog.messages
    )
