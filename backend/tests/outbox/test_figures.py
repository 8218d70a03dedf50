"""What is kept by the minute: it adds up over workers, survives their ends, and says where nobody knows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, delete, insert, select, update

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil, read_clock
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate import closures
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.gate.row import shut
from sqlalchemy_outbox.housekeeping import figures, workers
from sqlalchemy_outbox.housekeeping.figures import ALL_TYPES, DAY, HOUR, MINUTE, OTHER_TYPES, Counts, count_enqueued
from sqlalchemy_outbox.housekeeping.workers import Sign
from sqlalchemy_outbox.model import GateState, Outbox
from sqlalchemy_outbox.operations import Range
from sqlalchemy_outbox.outcome import Delivered, Outcome, Rejected
from sqlalchemy_outbox.settling.deliveries import Delivery
from tests.outbox.queue import TYPES, Queue

EVERYTHING = 2**62


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


async def deliver_with_requests(claim: Claim, _gate: Gate) -> Mapping[int, Outcome]:
    """Each claim by one request that is answered, and one of each kind that is not; what is of `bad` is rejected."""
    for status in (200, 400, 429, 502, None):
        outcomes = {event.id: "-" for event in claim.events}
        claim.note(Delivery("upsert", time.monotonic(), timedelta(0), "-", outcomes, status))
    return {event.id: Rejected("bad") if event.subject == "bad" else Delivered() for event in claim.events}


async def drain(queue: Queue) -> None:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=1000)
    worker = Worker(queue.outbox, queue.engine, deliver_with_requests, gate, types=TYPES, version="1.0")
    await worker.drain()
    # As a minute later.
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.records.counted).values(at=DatabaseNow(-60.0)))


def count(queue: Queue, types: list[str] = TYPES) -> None:
    with queue.engine.begin() as connection:
        count_enqueued(connection, queue.outbox, types, EVERYTHING)


def total(queue: Queue, range_: Range = Range.HOUR) -> Counts:
    sum_ = Counts()
    for point in operations.read_series(queue.engine, queue.outbox, range_).points:
        sum_.add(point.counts or Counts(enqueued=point.enqueued))
    return sum_


async def test_figures_of_several_workers_add_up_by_minutes_hours_and_days(queue: Queue) -> None:
    for _ in range(2):
        queue.put("a", "b", "bad")
        await drain(queue)
    await drain(queue)
    await drain(queue)
    for range_ in Range:
        found = total(queue, range_)
        assert (found.enqueued, found.delivered, found.failed) == (6, 4, 2), range_
        assert (found.answered, found.refused, found.throttled, found.unanswered) == (2, 2, 2, 4), range_


async def test_figures_that_cannot_be_kept_keep_no_delivery_back(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    (id_,) = queue.put("a")
    queue.outbox.records.figures.drop(queue.engine)
    gate = Gate(queue.outbox, queue.engine, requests_per_second=1000)
    await Worker(queue.outbox, queue.engine, deliver_with_requests, gate, types=TYPES).drain()
    assert queue.row(id_).processed_at is not None
    assert any("Could not keep figures" in message for message in caplog.messages)


async def test_event_that_is_seen_late_is_counted_in_the_minute_in_which_it_was_enqueued(queue: Queue) -> None:
    queue.put("a")
    c = queue.outbox.events.c
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.events).values(created_at=DatabaseNow(-1800.0)))
        then = start_of_minute(connection.execute(select(c.created_at)).scalar_one())
    count(queue)
    count(queue)
    points = {point.at: point for point in operations.read_series(queue.engine, queue.outbox, Range.HOUR).points}
    assert points[then].by_type[TYPES[0]].enqueued == 1
    assert points[then].counts is None


def start_of_minute(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(second=0, microsecond=0)


def test_no_event_is_counted_twice_or_left_out_whoever_counts(queue: Queue) -> None:
    count(queue)
    queue.put("a", "b")
    for _ in range(3):
        count(queue)
    queue.put("c")
    count(queue)
    assert total(queue).enqueued == 2
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.records.counted).values(at=DatabaseNow(-60.0)))
    count(queue)
    assert total(queue).enqueued == 3


def test_what_may_still_appear_below_is_not_counted_yet(queue: Queue) -> None:
    first, _ = queue.put("a", "b")
    count(queue)
    with queue.engine.begin() as connection:
        count_enqueued(connection, queue.outbox, TYPES, first)
    assert total(queue).enqueued == 1


def test_types_that_no_worker_knows_are_one(queue: Queue) -> None:
    for number in range(3):
        queue.put("a", event_type=f"unheard of {number}")
    count(queue)
    count(queue)
    *_, now = operations.read_series(queue.engine, queue.outbox, Range.DAY).points
    assert {name: counts.enqueued for name, counts in now.by_type.items()} == {OTHER_TYPES: 3}


def test_time_in_which_no_worker_lived_is_a_gap_and_not_zero(queue: Queue) -> None:
    tally = figures.Tally(TYPES)
    with queue.engine.begin() as connection:
        tally.write(connection, queue.outbox, {})
    age_figures(queue, timedelta(hours=3))
    with queue.engine.begin() as connection:
        figures.Tally(TYPES).write(connection, queue.outbox, {})
    points = operations.read_series(queue.engine, queue.outbox, Range.DAY).points
    lived = [point for point in points if point.counts is not None]
    assert len(lived) == 2
    assert lived[-1] is points[-1]
    assert all(point.counts == Counts() for point in lived)
    assert points[0].as_json()["delivered"] is None
    assert [point.lived for point in lived] == [0.1, 0.1]


def age_figures(queue: Queue, by: timedelta) -> None:
    c = queue.outbox.records.figures.c
    earlier = DatabaseNow(SecondsUntil(c.at) - by.total_seconds())
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.records.figures).values(at=earlier))


def test_what_could_not_be_written_is_written_later(queue: Queue) -> None:
    tally = figures.Tally(TYPES)
    with queue.engine.begin() as connection:
        minute = start_of_minute(read_clock(connection))
    tally.give_back({(minute, TYPES[0]): Counts(delivered=2)})
    tally.give_back({(minute, TYPES[0]): Counts(delivered=1)})
    with queue.engine.begin() as connection:
        tally.write(connection, queue.outbox, tally.take())
        tally.write(connection, queue.outbox, tally.take())
    assert total(queue).delivered == 3


def test_minutes_are_kept_a_week_and_hours_and_days_a_year(queue: Queue) -> None:
    table = queue.outbox.records.figures
    ages = {MINUTE: (6, 8), HOUR: (8, 360, 370), DAY: (360, 370)}
    with queue.engine.begin() as connection:
        now = read_clock(connection)
        # What a clock that ran ahead has dated.
        rows = [(span, now - timedelta(days=days)) for span, days_ in ages.items() for days in (*days_, -400)]
        for span, at in rows:
            connection.execute(insert(table).values(minutes=span, at=at, event_type=ALL_TYPES))
        connection.execute(delete(queue.outbox.records.counted))
    count(queue)
    count(queue)
    with queue.engine.connect() as connection:
        kept = connection.execute(select(table.c.minutes, table.c.at).where(table.c.at < now - timedelta(days=1)))
        assert sorted((row.minutes, (now - row.at).days) for row in kept) == [
            (MINUTE, 6),
            (HOUR, 8),
            (HOUR, 360),
            (DAY, 360),
        ]
        assert connection.execute(select(table.c.at).where(table.c.at > now + timedelta(days=1))).all() == []


def test_lag_and_what_waits_are_the_highest_that_were_seen(queue: Queue) -> None:
    queue.put("a", "b")
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.events).values(created_at=DatabaseNow(-90.0)))
    count(queue)
    count(queue)
    found = total(queue)
    assert found.waiting == 2
    assert 90 <= found.lag_seconds < 100


def test_closure_says_since_when_why_and_until_when(queue: Queue) -> None:
    gate = queue.outbox.gate.c
    operations.hold(queue.engine, queue.outbox, "import", by="cli:ada")
    held = operations.status(queue.engine, queue.outbox).gate
    assert held.since is not None
    operations.release(queue.engine, queue.outbox, by="cli:ada")
    assert operations.status(queue.engine, queue.outbox).gate.since is None
    for reason in ("429", "429 once more"):
        with queue.engine.begin() as connection:
            shut(connection, queue.outbox, GateState.THROTTLED, timedelta(seconds=5), reason, is_answer=True)
        age_closures(queue, timedelta(seconds=30))
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.gate).values({gate.state: "open", gate.until: None}))
        shut(connection, queue.outbox, GateState.HELD, timedelta(seconds=60), "token", is_answer=True)
        shut(connection, queue.outbox, GateState.HELD, timedelta(seconds=60), "scope", is_answer=True)
    by_hand, throttled, token = operations.read_series(queue.engine, queue.outbox, Range.HOUR).closures
    assert (by_hand.reason, by_hand.held_by, by_hand.ended_at is not None) == ("import", "cli:ada", True)
    # It opened by itself in between, for less than a minute.
    assert (throttled.state, throttled.reason, throttled.times) == (GateState.THROTTLED, "429 once more", 2)
    assert (token.reason, token.ended_at, token.times) == ("scope", None, 1)


def age_closures(queue: Queue, by: timedelta) -> None:
    c = queue.outbox.records.closures.c
    seconds = -by.total_seconds()
    with queue.engine.begin() as connection:
        for column in (c.began_at, c.ended_at):
            aged = DatabaseNow(SecondsUntil(column) + seconds)
            connection.execute(update(queue.outbox.records.closures).where(column.is_not(None)).values({column: aged}))
        g = queue.outbox.gate.c
        until = DatabaseNow(SecondsUntil(g.until) + seconds)
        connection.execute(update(queue.outbox.gate).where(g.until.is_not(None)).values(until=until))


def test_closure_that_began_before_the_range_is_in_it_while_it_lasts(queue: Queue) -> None:
    operations.hold(queue.engine, queue.outbox, "import", by="cli:ada")
    age_closures(queue, timedelta(days=400))
    (closure,) = operations.read_series(queue.engine, queue.outbox, Range.HOUR).closures
    assert closure.reason == "import"
    with queue.engine.begin() as connection:
        closures.note_open(connection, queue.outbox)
    age_closures(queue, timedelta(days=1))
    assert operations.read_series(queue.engine, queue.outbox, Range.HOUR).closures == []
    count(queue)
    count(queue)
    with queue.engine.connect() as connection:
        assert connection.execute(select(queue.outbox.records.closures)).all() == []


def test_deploys_and_what_people_did_are_marks(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        for number, version in enumerate(("1.0", "1.0", "1.1")):
            workers.note_alive(connection, queue.outbox, f"w{number}", TYPES, Sign(version))
            started = DatabaseNow(number - 10.0)
            is_it = queue.outbox.workers.c.id == f"w{number}"
            connection.execute(update(queue.outbox.workers).where(is_it).values(started_at=started))
    operations.hold(queue.engine, queue.outbox, "import", by="cli:ada")
    deploy, hold = operations.read_series(queue.engine, queue.outbox, Range.HOUR).marks
    assert (deploy.kind, deploy.words) == ("deploy", "1.1 after 1.0")
    assert (hold.kind, hold.words) == ("hold", "by ada: import")


async def test_worker_is_known_by_machine_process_and_version_and_says_when_it_stops(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        for id_ in ("alive", "stopped", "killed"):
            workers.note_alive(connection, queue.outbox, id_, TYPES, Sign("1.1", in_flight=7))
        workers.note_stopped(connection, queue.outbox, "stopped")
        is_killed = queue.outbox.workers.c.id == "killed"
        connection.execute(update(queue.outbox.workers).where(is_killed).values(seen_at=DatabaseNow(-120.0)))
    alive, *ended = operations.read_workers(queue.engine, queue.outbox)
    assert (alive.id, alive.is_alive, alive.version, alive.in_flight) == ("alive", True, "1.1", 7)
    assert alive.machine
    assert alive.process
    assert not any(worker.is_alive for worker in ended)
    assert {worker.id: worker.is_dead for worker in ended} == {"stopped": False, "killed": True}


def test_worker_of_the_release_before_is_known_by_its_id(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        connection.execute(insert(queue.outbox.workers).values(id="0" * 32, types=TYPES, seen_at=DatabaseNow()))
    (worker,) = operations.read_workers(queue.engine, queue.outbox)
    assert (worker.name, worker.version, worker.is_alive) == ("0" * 8, None, True)
    assert list(operations.read_series(queue.engine, queue.outbox, Range.HOUR).marks) == []


def test_try_now_lets_the_next_request_find_out_and_never_lifts_a_persons_hold(queue: Queue) -> None:
    assert not operations.try_now(queue.engine, queue.outbox, by="page:ada")
    operations.hold(queue.engine, queue.outbox, "import", by="cli:ada")
    assert not operations.try_now(queue.engine, queue.outbox, by="page:ada")
    operations.release(queue.engine, queue.outbox, by="cli:ada")
    with queue.engine.begin() as connection:
        shut(connection, queue.outbox, GateState.HELD, timedelta(seconds=60), "token", is_answer=True)
    assert operations.try_now(queue.engine, queue.outbox, by="page:ada")
    gate = operations.status(queue.engine, queue.outbox).gate
    assert (gate.state, gate.wait_seconds) == (GateState.HELD, 0.0)
    assert operations.read_audit(queue.engine, queue.outbox)[0].action == "try now"
