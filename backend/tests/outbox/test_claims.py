"""Guarantees 4 to 6: ordered per subject, fenced by leases, and a crash costs an attempt, never an event."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, delete, insert, select, text

from sqlalchemy_outbox.claiming import claims
from sqlalchemy_outbox.claiming.claims import Window
from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.gate.row import read_gate
from sqlalchemy_outbox.housekeeping.sweep import Sweep
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.operating.status import read_status
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed, Rejected, Retry
from sqlalchemy_outbox.settling import leases, settlement
from tests.outbox.queue import Queue

LONG = timedelta(minutes=10)


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


def test_claim_takes_a_subjects_events_together_and_in_order(queue: Queue) -> None:
    ids = queue.put("a", "b", "a", "a", "b")
    assert queue.claimed_ids() == ids


def test_claim_fills_up_with_the_oldest_subjects_events_first(queue: Queue) -> None:
    ids = queue.put("a", "b", "a", "c", "a")
    assert queue.claimed_ids(limit=3) == [ids[0], ids[2], ids[4]]
    assert queue.claimed_ids(limit=3) == [ids[1], ids[3]]


def test_claim_never_exceeds_its_limit(queue: Queue) -> None:
    queue.put(*(f"driver-{n % 7}" for n in range(100)))
    assert len(queue.claimed_ids(limit=10)) == 10


def test_claim_honours_its_limit_on_a_table_that_was_analysed_while_empty(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        connection.execute(text("ANALYZE outbox_events") if queue.engine.dialect.name != "sqlite" else text("ANALYZE"))
    queue.put(*(f"driver-{n}" for n in range(500)))
    assert len(queue.claimed_ids(limit=100)) == 100


def test_event_of_a_claimed_subject_waits(queue: Queue) -> None:
    queue.put("a")
    token, events = queue.claim()
    (later,) = queue.put("a")
    assert queue.claimed_ids() == []
    queue.settle(token, events, Delivered())
    assert queue.claimed_ids() == [later]


def test_event_behind_one_that_backs_off_waits_and_others_do_not(queue: Queue) -> None:
    queue.put("a")
    token, events = queue.claim()
    queue.settle(token, events, Retry("no"))
    later, other = queue.put("a", "b")
    assert queue.claimed_ids() == [other]
    queue.pass_time(LONG)
    assert queue.claimed_ids() == [events[0].id]
    assert queue.row(later).claim_token is None


def test_event_behind_a_failed_one_does_not_wait(queue: Queue) -> None:
    queue.put("a")
    token, events = queue.claim()
    queue.settle(token, events, Rejected("never"))
    (later,) = queue.put("a")
    assert queue.claimed_ids() == [later]


def test_event_waits_for_an_earlier_one_that_the_look_passes_by(queue: Queue) -> None:
    first, _ = queue.put("a", "a")
    with queue.engine.begin() as connection:
        window = Window(after=first)
        claimed = claims.claim(
            connection, queue.outbox, window, types=queue.types, token="t", lease=LEASE, limit=50, budget=LEASE
        )
    assert claimed.events == []


def test_charged_event_travels_alone(queue: Queue) -> None:
    ids = queue.put("a", "a", "a")
    token, events = queue.claim()
    queue.settle(token, events, Retry("no"))
    queue.pass_time(LONG)
    token, events = queue.claim()
    assert [event.id for event in events] == ids[:1]
    queue.settle(token, events, Delivered())
    assert queue.claimed_ids() == ids[1:]


def test_only_the_head_of_a_merged_subject_is_charged(queue: Queue) -> None:
    ids = queue.put("a", "a", "b")
    token, events = queue.claim()
    queue.settle(token, events, Retry("no"))
    assert [queue.row(id_).attempt_count for id_ in ids] == [1, 0, 1]


@pytest.mark.parametrize(
    ("outcomes", "attempts"),
    [
        ([Retry("no"), Retry("no"), Rejected("never")], [1, 0, 0]),
        ([Rejected("never"), Retry("no"), Retry("no")], [3, 1, 0]),
        ([Delivered(), Rejected("never"), Rejected("never")], [0, 3, 3]),
    ],
    ids=["behind one that is charged", "behind a failed one", "each for itself"],
)
def test_event_behind_a_charged_one_goes_back_and_behind_others_stands_for_itself(
    queue: Queue, outcomes: list[Outcome], attempts: list[int]
) -> None:
    ids = queue.put("a", "a", "a")
    token, events = queue.claim()
    rows = settlement.settle(events, dict(zip(ids, outcomes, strict=True)), queue.random)
    with queue.engine.begin() as connection:
        leases.settle(connection, queue.outbox, token, rows)
    assert [queue.row(id_).attempt_count for id_ in ids] == attempts
    assert [queue.row(id_).failed_at is not None for id_ in ids] == [it == 3 for it in attempts]


def test_event_that_goes_back_keeps_its_last_error_unless_there_is_another_reason(queue: Queue) -> None:
    (id_,) = queue.put("a")
    for outcome, last_error in ((Retry("no"), "no"), (Postponed(), "no"), (Postponed("later"), "later")):
        queue.settle(*queue.claim(), outcome)
        queue.pass_time(LONG)
        assert queue.row(id_).last_error == last_error


@pytest.mark.parametrize("outcome", [Retry, Rejected, Postponed])
def test_error_that_no_database_stores_is_kept_as_escapes_and_cut(queue: Queue, outcome: type[Retry]) -> None:
    (id_,) = queue.put("a")
    queue.settle(*queue.claim(), outcome("no\0" + "o" * 10_000))
    error = queue.row(id_).last_error
    assert error.startswith("no")
    assert "\0" not in error
    assert len(error) < 3000


def test_event_that_is_handed_back_at_once_is_due_since_it_was_before(queue: Queue) -> None:
    (id_,) = queue.put("a")
    due_at = queue.row(id_).available_at
    queue.settle(*queue.claim(), Postponed())
    assert queue.row(id_).available_at == due_at
    queue.settle(*queue.claim(), Postponed("later", LONG))
    assert queue.row(id_).available_at > due_at
    assert queue.claimed_ids() == []


@pytest.mark.parametrize("end", ["hand back", "charge"])
def test_claim_that_ends_leaves_alone_what_another_claimed_meanwhile(queue: Queue, end: str) -> None:
    """As one whose lease was restored from a backup."""
    queue.put("a")
    old_token, events = queue.claim()
    table = queue.outbox.leases
    with queue.engine.begin() as connection:
        lease = connection.execute(select(table)).mappings().one()
    queue.settle(old_token, events, Postponed())
    new_token, _ = queue.claim()
    with queue.engine.begin() as connection:
        connection.execute(insert(table).values({**lease, "until": DatabaseNow(-1.0)}))
    if end == "hand back":
        queue.hand_back(old_token)
    else:
        queue.charge_lost_leases()
    row = queue.row(events[0].id)
    assert (row.claim_token, row.attempt_count) == (new_token, 0)


def test_only_leases_that_are_still_held_are_renewed(queue: Queue) -> None:
    (renewed,) = queue.put("a")
    token, _ = queue.claim()
    (forgotten,) = queue.put("b")
    queue.claim()
    queue.pass_time(LEASE - timedelta(seconds=1))
    with queue.engine.begin() as connection:
        assert leases.renew(connection, queue.outbox, [token, "unheard of"], LEASE) == {token}
    queue.pass_time(timedelta(seconds=2))
    queue.charge_lost_leases()
    assert [queue.row(id_).claim_token for id_ in (renewed, forgotten)] == [token, None]


def test_event_type_that_this_worker_does_not_know_is_left_for_others_and_keeps_its_place(queue: Queue) -> None:
    queue.put("a", event_type="of_a_newer_release")
    _, other = queue.put("a", "b")
    assert queue.claimed_ids() == [other]


def test_three_attempts_are_all(queue: Queue) -> None:
    (id_,) = queue.put("a")
    for attempt in (1, 2, 3):
        token, events = queue.claim()
        assert [event.attempt_count for event in events] == [attempt - 1]
        queue.settle(token, events, Retry(f"error {attempt}"))
        queue.pass_time(LONG)
    assert queue.claimed_ids() == []
    row = queue.row(id_)
    assert (row.attempt_count, row.last_error) == (3, "error 3")
    assert row.failed_at is not None
    assert row.processed_at is None


def test_rejection_spends_the_whole_budget(queue: Queue) -> None:
    (id_,) = queue.put("a")
    token, events = queue.claim()
    queue.settle(token, events, Rejected("never"))
    assert queue.row(id_).attempt_count == 3


def test_postponed_event_is_not_charged(queue: Queue) -> None:
    (id_,) = queue.put("a")
    token, events = queue.claim()
    queue.settle(token, events, Postponed())
    assert queue.row(id_).attempt_count == 0
    assert queue.claimed_ids() == [id_]


def test_delivery_clears_the_last_error(queue: Queue) -> None:
    (id_,) = queue.put("a")
    token, events = queue.claim()
    queue.settle(token, events, Retry("no"))
    queue.pass_time(LONG)
    token, events = queue.claim()
    queue.settle(token, events, Delivered())
    row = queue.row(id_)
    assert row.last_error is None
    assert row.processed_at is not None


def test_worker_that_lost_its_lease_settles_nothing(queue: Queue) -> None:
    queue.put("a")
    old_token, events = queue.claim()
    queue.pass_time(LEASE + timedelta(seconds=1))
    queue.charge_lost_leases()
    queue.pass_time(LONG)
    new_token, again = queue.claim()
    assert [event.id for event in again] == [event.id for event in events]
    assert queue.settle(old_token, events, Delivered()) == set()
    assert queue.settle(new_token, again, Delivered()) == {events[0].id}


def test_lost_lease_costs_each_subjects_head_an_attempt_and_no_event(queue: Queue) -> None:
    ids = queue.put("a", "a", "b")
    queue.claim()
    queue.pass_time(LEASE + timedelta(seconds=1))
    queue.charge_lost_leases()
    assert [queue.row(id_).attempt_count for id_ in ids] == [1, 0, 1]
    assert [queue.row(id_).claim_token for id_ in ids] == [None, None, None]


def test_lease_that_has_not_run_out_is_not_taken(queue: Queue) -> None:
    (id_,) = queue.put("a")
    queue.claim()
    queue.charge_lost_leases()
    assert queue.row(id_).claim_token is not None


def test_event_that_kills_its_worker_three_times_is_failed_and_its_neighbours_arrive(queue: Queue) -> None:
    killer, *neighbours = queue.put("killer", "b", "c", "killer")
    delivered: list[int] = []
    for _ in range(12):
        token, events = queue.claim()
        if any(event.id == killer for event in events):
            queue.pass_time(LEASE + timedelta(seconds=1))  # It died with the claim in hand.
        else:
            delivered += queue.settle(token, events, Delivered())
        queue.charge_lost_leases()
        queue.pass_time(LONG)
    row = queue.row(killer)
    assert (row.attempt_count, row.failed_at is not None) == (3, True)
    assert sorted(delivered) == neighbours


def test_workers_at_once_never_share_a_subject_nor_an_event(queue: Queue) -> None:
    """Sixteen subjects, eight threads that claim as fast as they can: at most one claim in flight per subject."""
    queue.put(*(f"driver-{n % 16}" for n in range(400)))
    in_flight: set[str] = set()
    seen: list[int] = []
    guard = threading.Lock()

    def work() -> None:
        while True:
            token, events = queue.claim(limit=5)
            if not events:
                return
            subjects = {event.subject for event in events}
            with guard:
                assert not subjects & in_flight
                in_flight.update(subjects)
            with guard:
                seen.extend(event.id for event in events)
                in_flight.difference_update(subjects)
            queue.settle(token, events, Delivered())

    threads = [Raising(work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join_or_raise()
    while rest := queue.claim(limit=50)[1]:
        seen.extend(event.id for event in rest)
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 400


class Raising(threading.Thread):
    """A thread whose assertion errors reach the test."""

    def __init__(self, target: object) -> None:
        super().__init__()
        self._work = target
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            assert callable(self._work)
            self._work()
        except BaseException as error:  # noqa: BLE001  # Raised again by the test's own thread.
            self._error = error

    def join_or_raise(self) -> None:
        self.join(60)
        if self._error is not None:
            raise self._error


def test_status_counts_each_state(queue: Queue) -> None:
    queue.put("a")
    token, events = queue.claim()
    queue.settle(token, events, Delivered())
    queue.put("b")
    token, events = queue.claim()
    queue.settle(token, events, Rejected("never"))
    queue.put("c")
    queue.claim()
    queue.put("d", "e")
    with queue.engine.connect() as connection:
        status = read_status(connection, queue.outbox)
        assert status.gate == read_gate(connection, queue.outbox)
    assert (status.pending, status.claimed, status.delivered, status.failed) == (2, 1, 1, 1)
    assert status.oldest_pending_seconds is not None


def test_briefs_queries_tell_the_truth(queue: Queue) -> None:
    queue.put("a", "b", "c")
    queue.settle(*queue.claim(limit=1), Delivered())
    queue.settle(*queue.claim(limit=1), Rejected("never"))
    queue.claim()
    with queue.engine.connect() as connection:

        def count(condition: str) -> int:
            return connection.execute(text(f"SELECT COUNT(*) FROM outbox_events WHERE {condition}")).scalar_one()

        assert count("processed_at IS NULL") == 2
        assert count("attempt_count >= 3") == 1
        assert count("processed_at IS NOT NULL") == 1


def test_events_whose_lease_is_gone_are_freed_uncharged_and_those_under_a_lease_are_not(
    queue: Queue,
) -> None:
    """As after a backup that restored the events alone."""
    (lost,) = queue.put("a")
    lost_token, _ = queue.claim()
    (held,) = queue.put("b")
    queue.claim()
    leases = queue.outbox.leases
    with queue.engine.begin() as connection:
        connection.execute(delete(leases).where(leases.c.token == lost_token))
        sweeps = [Sweep(queue.outbox, queue.random).take_back(connection) for _ in range(2)]
    assert sweeps == [(1, []), (0, [])]
    assert (queue.row(lost).claim_token, queue.row(lost).attempt_count) == (None, 0)
    assert queue.row(held).claim_token is not None
    assert queue.claimed_ids() == [lost]


def test_sweep_looks_back_to_before_the_last_one_and_once_a_minute_at_everything(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("sqlalchemy_outbox.housekeeping.sweep.time", SimpleNamespace(monotonic=lambda: now))
    sweep = Sweep(queue.outbox, queue.random)

    def charged() -> list[int]:
        with queue.engine.begin() as connection:
            return [it.event.id for it in sweep.take_back(connection).charged]

    def claim_and_die(ran_out: timedelta) -> int:
        queue.settle(*queue.claim(), Delivered())
        (id_,) = queue.put("a")
        queue.claim()
        queue.pass_time(LEASE + ran_out)
        return id_

    assert charged() == []
    recent = claim_and_die(timedelta(seconds=10))
    now = 1.0
    assert charged() == []
    now = 10.0
    assert charged() == [recent]
    for minute in (1, 2):
        queue.pass_time(LONG)
        old = claim_and_die(timedelta(hours=1))
        now = minute * 61.0 - 1.0
        assert charged() == []
        now += 1.5
        assert charged() == [old]


def test_lease_without_events_ends_when_it_has_run_out(queue: Queue) -> None:
    """As after a backup that restored the leases alone."""
    queue.put("a")
    queue.claim()
    with queue.engine.begin() as connection:
        connection.execute(delete(queue.outbox.events))
    queue.pass_time(LONG)
    queue.charge_lost_leases()
    with queue.engine.connect() as connection:
        assert connection.execute(select(queue.outbox.leases)).all() == []
