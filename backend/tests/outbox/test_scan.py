"""A worker that scans on leaves nothing behind: what it passed by, and what was not there yet, is claimed in time."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine

from sqlalchemy_outbox.claiming.scan import PACE, Pace, Scan
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import Event, Outbox
from sqlalchemy_outbox.outcome import Delivered, FollowUp, Outcome, Postponed, Rejected, Retry
from sqlalchemy_outbox.settling import settlement
from sqlalchemy_outbox.settling.follow_up import store
from tests.outbox.queue import TYPES, Queue

LONG = timedelta(minutes=10)


class Scanner:
    """One worker's scan, with the notes that the worker takes of how its deliveries end."""

    def __init__(self, queue: Queue, pace: Pace = PACE) -> None:
        self.queue = queue
        self.scan = Scan(queue.outbox, pace=pace)

    def claim(self, limit: int = 50) -> tuple[str, list[Event]]:
        token = uuid4().hex
        with self.queue.engine.begin() as connection:
            return token, self.scan.claim(connection, types=TYPES, token=token, lease=LEASE, limit=limit)

    def claimed_ids(self, limit: int = 50) -> list[int]:
        return [event.id for event in self.claim(limit)[1]]

    def settle(self, token: str, events: list[Event], outcome: Outcome) -> None:
        self.queue.settle(token, events, outcome)
        outcomes = {event.id: outcome for event in events}
        self.scan.ended(events, settlement.settle(events, outcomes, self.queue.random))


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


@pytest.fixture
def scanner(queue: Queue) -> Scanner:
    return Scanner(queue)


def test_event_that_was_passed_by_is_claimed_when_its_subjects_delivery_has_ended(
    queue: Queue, scanner: Scanner
) -> None:
    queue.put("a")
    token, events = scanner.claim()
    passed_by, other = queue.put("a", "b")
    assert scanner.claimed_ids() == [other]
    scanner.settle(token, events, Delivered())
    assert scanner.claimed_ids() == [passed_by]


def test_event_that_was_passed_by_is_claimed_though_many_subjects_were_delivered_before_its_own(
    queue: Queue, scanner: Scanner
) -> None:
    subjects = [f"driver-{n}" for n in range(150)]
    queue.put(*subjects)
    token, events = scanner.claim(limit=len(subjects))
    (passed_by,) = queue.put(subjects[-1])
    assert scanner.claimed_ids() == []
    scanner.settle(token, events, Delivered())
    assert scanner.claimed_ids(limit=10) == [passed_by]


def test_event_behind_a_failed_one_is_claimed_after_it_was_passed_by(queue: Queue, scanner: Scanner) -> None:
    queue.put("a")
    token, events = scanner.claim()
    (passed_by,) = queue.put("a")
    assert scanner.claimed_ids() == []
    scanner.settle(token, events, Rejected("never"))
    assert scanner.claimed_ids() == [passed_by]


def test_event_of_a_blocked_subject_waits_wherever_the_scan_is(queue: Queue, scanner: Scanner) -> None:
    (first,) = queue.put("a")
    token, events = scanner.claim()
    scanner.settle(token, events, Retry("no"))
    queue.put("b")
    assert len(scanner.claimed_ids()) == 1
    queue.put("a")
    assert scanner.claimed_ids() == []
    queue.pass_time(LONG)
    scanner.scan.restart()
    assert scanner.claimed_ids() == [first]


def test_event_that_a_person_retries_is_claimed_before_the_next_full_pass(queue: Queue) -> None:
    scanner = Scanner(queue, Pace(retry_pause=timedelta(0)))
    failed, other = queue.put("a", "b")
    scanner.settle(*scanner.claim(limit=1), Rejected("never"))
    scanner.settle(*scanner.claim(), Delivered())
    assert scanner.claimed_ids() == []
    queue.retry(failed)
    with queue.engine.begin() as connection:
        seconds = scanner.scan.seconds_to_next(connection)
    assert seconds is not None
    assert seconds <= 0
    assert scanner.claimed_ids() == [failed]
    assert queue.row(other).processed_at is not None


def test_event_whose_backoff_is_over_is_claimed_before_the_next_full_pass(queue: Queue) -> None:
    scanner = Scanner(queue, Pace(retry_pause=timedelta(0)))
    (first,) = queue.put("a")
    token, events = scanner.claim()
    scanner.settle(token, events, Retry("no"))
    assert scanner.claimed_ids() == []
    queue.pass_time(LONG)
    with queue.engine.begin() as connection:
        scanner.scan.seconds_to_next(connection)
    assert scanner.claimed_ids() == [first]


def test_event_that_comes_back_by_itself_is_claimed_before_the_next_full_pass(queue: Queue, scanner: Scanner) -> None:
    (id_,) = queue.put("a")
    token, events = scanner.claim()
    assert scanner.claimed_ids() == []
    scanner.settle(token, events, Postponed("busy", timedelta(milliseconds=1)))
    deadline = time.monotonic() + PACE.full_pass_every.total_seconds() / 2
    while not (claimed := scanner.claimed_ids()):
        assert time.monotonic() < deadline
    assert claimed == [id_]


def test_events_that_go_back_uncharged_are_claimed_again_at_once(queue: Queue, scanner: Scanner) -> None:
    ids = queue.put("a", "b")
    token, events = scanner.claim()
    queue.put("c")
    scanner.claim()
    scanner.settle(token, events, Postponed())
    assert scanner.claimed_ids() == ids


def test_event_that_another_worker_hands_back_is_found_by_the_next_full_pass(
    queue: Queue, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (handed_back,) = queue.put("a")
    others, _ = queue.claim()
    queue.put("b")
    assert len(scanner.claimed_ids()) == 1
    queue.hand_back(others)
    assert scanner.claimed_ids() == []
    later = time.monotonic() + PACE.full_pass_every.total_seconds() + 1
    monkeypatch.setattr("sqlalchemy_outbox.claiming.scan.time", SimpleNamespace(monotonic=lambda: later))
    assert scanner.claimed_ids() == [handed_back]


def test_neither_a_backlog_nor_what_comes_again_keeps_the_other_waiting(queue: Queue) -> None:
    scanner = Scanner(queue, Pace(retry_pause=timedelta(0)))
    charged = queue.put("a", "b", "c", "d")
    scanner.settle(*scanner.claim(), Retry("no"))
    assert scanner.claimed_ids() == []
    queue.pass_time(LONG)
    backlog = queue.put("e", "f", "g", "h")
    with queue.engine.begin() as connection:
        scanner.scan.seconds_to_next(connection)
    claimed = {id_ for _ in range(4) for id_ in scanner.claimed_ids(limit=1)}
    assert len(claimed & {*charged}) == len(claimed & {*backlog}) == 2


@pytest.mark.parametrize(("followers_wait", "is_first"), [(LONG, False), (timedelta(0), True)])
def test_events_behind_an_ended_delivery_wait_for_the_backlog_for_a_time_only(
    queue: Queue, followers_wait: timedelta, *, is_first: bool
) -> None:
    scanner = Scanner(queue, Pace(followers_wait=followers_wait))
    queue.put("a")
    token, events = scanner.claim()
    (passed_by,) = queue.put("a")
    first, second, third = queue.put("c", "d", "e")
    assert scanner.claimed_ids(limit=1) == [first]
    scanner.settle(token, events, Delivered())
    claimed = [id_ for _ in range(3) for id_ in scanner.claimed_ids(limit=1)]
    assert claimed == ([passed_by, second, third] if is_first else [second, third, passed_by])


def test_followers_of_more_subjects_than_a_worker_remembers_are_found_by_a_full_pass(queue: Queue) -> None:
    scanner = Scanner(queue, Pace(subjects_max=2))
    queue.put("a", "b", "c")
    token, events = scanner.claim()
    passed_by = queue.put("a", "b", "c")
    assert scanner.claimed_ids() == []
    scanner.settle(token, events, Delivered())
    assert scanner.claimed_ids() == passed_by


def test_every_event_of_a_long_backlog_with_a_hot_subject_is_claimed_once(queue: Queue, scanner: Scanner) -> None:
    ids = queue.put(*("hot" if n % 3 else f"driver-{n % 40}" for n in range(600)))
    seen: list[int] = []
    while (claim := scanner.claim(limit=10))[1]:
        seen += [event.id for event in claim[1]]
        scanner.settle(*claim, Delivered())
    assert sorted(seen) == ids


def test_event_that_commits_after_a_later_one_is_claimed_at_once(outbox_postgres_url: str, outbox: Outbox) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    scanner = Scanner(queue)
    for _ in range(2):  # The second time, the scan has been at its end before.
        with engine.connect() as connection, connection.begin() as late:
            store(connection, outbox, [FollowUp(TYPES[0], uuid4().hex, {})])
            (later,) = queue.put(uuid4().hex)
            assert scanner.claimed_ids() == [later]
            late.commit()
        (claimed,) = scanner.claimed_ids()
        assert claimed < later
    engine.dispose()
