"""What waits for something is set apart: it costs claims nothing, keeps its subject's order, and goes on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, delete, select, text, update

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.delivering.releases import Releases
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import WAIT, Event, Outbox, State
from sqlalchemy_outbox.operations import EventFilter
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed, Rejected, Retry, Waiting
from sqlalchemy_outbox.settling import waits
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.plans import execute, explain, nodes, sent_by
from tests.outbox.queue import TYPES, LongestWait, Queue
from tests.outbox.test_scan import Scanner

KEY, REASON = "a thing", "the thing is missing: make it"
LONG = timedelta(days=3)
SPECIAL = "special_happened"


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox, (*TYPES, SPECIAL))


class Destination(RecordingDestination):
    """Special events wait for the thing until it is there."""

    def __init__(self) -> None:
        self.is_there = False
        self.questions: list[str] = []
        super().__init__(self._answer)

    def _answer(self, event: Event) -> Outcome:
        return Waiting(KEY, REASON) if event.event_type == SPECIAL and not self.is_there else Delivered()

    async def is_over(self, key: str, _gate: Gate) -> bool:
        self.questions.append(key)
        return self.is_there


def worker_of(queue: Queue, destination: Destination) -> Worker:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=10_000)
    return Worker(
        queue.outbox,
        queue.engine,
        destination,
        gate,
        types=queue.types,
        random=LongestWait(),
        is_over=destination.is_over,
    )


def releases_of(queue: Queue, destination: Destination) -> Releases:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=10_000)
    return Releases(queue.outbox, queue.engine, gate, destination.is_over, lambda: None)


def set_apart(queue: Queue, key: str = KEY) -> list[int]:
    """All that can be claimed."""
    token, events = queue.claim()
    with queue.engine.begin() as connection:
        waits.note(connection, queue.outbox, {key: REASON})
    queue.settle(token, events, Waiting(key, REASON))
    return [event.id for event in events]


def waiting(queue: Queue) -> dict[str, int]:
    return {wait.key: wait.events for wait in operations.status(queue.engine, queue.outbox).waiting}


def move_look(queue: Queue, seconds: float) -> None:
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.waits).values(look_at=DatabaseNow(seconds)))


def test_event_that_waits_is_pending_uncharged_and_not_claimed_however_long(queue: Queue) -> None:
    [id_] = queue.put("a")
    assert set_apart(queue) == [id_]
    queue.pass_time(LONG)
    assert queue.claimed_ids() == []
    row = queue.row(id_)
    assert (row.attempt_count, row.last_error, row.waits_for) == (0, REASON, KEY)
    assert waiting(queue) == {KEY: 1}
    assert operations.status(queue.engine, queue.outbox).pending == 1


def test_later_events_of_its_subject_wait_and_others_do_not(queue: Queue) -> None:
    queue.put("a")
    set_apart(queue)
    _, other = queue.put("a", "b")
    assert queue.claimed_ids() == [other]


def test_released_event_goes_before_younger_ones_of_its_subject_also_far_below_the_first_open_id(queue: Queue) -> None:
    [id_] = queue.put("a")
    set_apart(queue)
    queue.settle(*queue.claim(), Delivered())
    for _ in range(3):
        queue.put("b")
        queue.settle(*queue.claim(), Delivered())
    [later] = queue.put("a")
    assert queue.claimed_ids() == []
    with queue.engine.begin() as connection:
        assert waits.release(connection, queue.outbox, KEY) is False
    token, events = queue.claim()
    assert [event.id for event in events] == [id_, later]
    # Handed back, it still goes first.
    queue.settle(token, events, Postponed())
    assert queue.claimed_ids() == [id_, later]


def test_event_set_apart_is_waited_for_when_the_first_open_id_is_above_it(queue: Queue) -> None:
    queue.put("a")
    set_apart(queue)
    scanner = Scanner(queue)
    for _ in range(3):
        queue.put("b")
        scanner.settle(*scanner.claim(), Delivered())
        with queue.engine.begin() as connection:
            scanner.scan.refresh_watermark(connection)
    _, other = queue.put("a", "c")
    assert scanner.claimed_ids() == [other]


def test_what_is_in_line_before_and_behind_a_waiting_event_does_not_travel_together(queue: Queue) -> None:
    [first] = queue.put("a")
    queue.settle(*queue.claim(), Rejected("no"))
    queue.put("a")
    set_apart(queue)
    queue.put("a")
    queue.retry(first)
    token, events = queue.claim()
    assert [event.id for event in events] == [first]
    queue.settle(token, events, Delivered())
    assert queue.claimed_ids() == []


@pytest.mark.parametrize("outcome", [Retry("no"), Postponed("no", timedelta(seconds=1))])
def test_event_that_has_waited_and_backs_off_is_waited_for(queue: Queue, outcome: Outcome) -> None:
    [id_] = queue.put("a")
    set_apart(queue)
    with queue.engine.begin() as connection:
        waits.release(connection, queue.outbox, KEY)
    queue.settle(*queue.claim(), outcome)
    [other, later] = queue.put("b", "a")
    assert queue.claimed_ids() == [other]
    queue.pass_time(LONG)
    assert id_ in queue.claimed_ids(limit=1)
    assert later not in queue.claimed_ids()


def test_delivered_and_failed_events_wait_for_nothing(queue: Queue) -> None:
    for outcome in (Delivered(), Retry("no")):
        [id_] = queue.put("a")
        set_apart(queue)
        with queue.engine.begin() as connection:
            waits.release(connection, queue.outbox, KEY)
        for _ in range(3):
            queue.settle(*queue.claim(), outcome)
            queue.pass_time(LONG)
        assert queue.row(id_).waits_for is None
        assert queue.row(id_).processed_at or queue.row(id_).failed_at


async def test_everything_goes_on_in_order_once_it_is_there(queue: Queue) -> None:
    destination = Destination()
    worker = worker_of(queue, destination)
    ids = queue.put("a") + queue.put("a", "b", event_type=SPECIAL) + queue.put("a", "b", "c")
    await worker.drain()
    assert [queue.row(id_).processed_at is not None for id_ in ids] == [True, False, False, False, False, True]
    destination.is_there = True
    await worker.drain()
    assert all(queue.row(id_).processed_at for id_ in ids)
    assert waiting(queue) == {}
    for subject in "ab":
        sent = [event.id for event in destination.events if event.subject == subject]
        # What waited was shown to the destination before too.
        assert list(dict.fromkeys(sent)) == sorted(set(sent))


async def test_one_of_several_workers_looks_and_no_sooner_than_it_is_time(queue: Queue) -> None:
    destination = Destination()
    queue.put("a", event_type=SPECIAL)
    set_apart(queue)
    first, second = releases_of(queue, destination), releases_of(queue, destination)
    await first.look()
    assert destination.questions == []
    move_look(queue, -1)
    await first.look()
    await second.look()
    assert destination.questions == [KEY]


@pytest.mark.parametrize("seconds", [3600, 86_400])
async def test_look_that_a_jumped_clock_left_far_ahead_is_due(queue: Queue, seconds: float) -> None:
    destination = Destination()
    queue.put("a", event_type=SPECIAL)
    set_apart(queue)
    move_look(queue, seconds)
    await releases_of(queue, destination).look()
    assert destination.questions == [KEY]


async def test_worker_that_dies_after_its_look_or_between_two_batches_is_made_good_by_the_next(
    queue: Queue,
) -> None:
    destination = Destination()
    destination.is_there = True
    ids = queue.put(*"abcde", event_type=SPECIAL)
    set_apart(queue)
    with queue.engine.begin() as connection:
        # It looked, released a batch, and died.
        assert waits.take_due(connection, queue.outbox, is_hurried=True) == [KEY]
        assert waits.release(connection, queue.outbox, KEY, at_once=2) is True
    assert waiting(queue) == {KEY: 3}
    move_look(queue, -1)
    await releases_of(queue, destination).look()
    assert waiting(queue) == {}
    assert sorted(queue.claimed_ids()) == ids


def test_key_is_noted_anew_by_who_sets_an_event_apart_after_it_was_released(queue: Queue) -> None:
    queue.put("a")
    set_apart(queue)
    with queue.engine.begin() as connection:
        waits.release(connection, queue.outbox, KEY)
    queue.put("b")
    assert len(set_apart(queue) + set_apart(queue)) == 2
    assert waiting(queue) == {KEY: 2}


async def test_what_comes_behind_a_waiting_event_later_is_set_apart_too(queue: Queue) -> None:
    """Or the full passes of all workers would pass by it, and it would seem to be due and in nobody's hands."""
    destination = Destination()
    queue.put("a", event_type=SPECIAL)
    set_apart(queue)
    behind, other = queue.put("a", "b")
    move_look(queue, -1)
    await releases_of(queue, destination).look()
    assert waiting(queue) == {KEY: 2}
    assert queue.row(behind).last_error == f"waits behind an earlier event of its subject: {REASON}"
    assert queue.claimed_ids() == [other]


async def test_released_event_behind_one_that_waits_for_something_else_waits_for_that_too(queue: Queue) -> None:
    first, second, third = queue.put("a", "a", "a")
    token, events = queue.claim()
    with queue.engine.begin() as connection:
        waits.note(connection, queue.outbox, {KEY: REASON, "another": REASON})
    apart = Waiting(KEY, REASON)
    queue.settle_each(token, events, {first: apart, second: Waiting("another", REASON), third: apart})
    with queue.engine.begin() as connection:
        waits.release(connection, queue.outbox, KEY)
    queue.settle(*queue.claim(), Delivered())
    move_look(queue, -1)
    await releases_of(queue, Destination()).look()
    assert waiting(queue) == {"another": 2}
    assert queue.row(third).waits_for == "another"


async def test_waiting_event_that_is_failed_by_a_statement_frees_what_waits_behind_it(queue: Queue) -> None:
    destination = Destination()
    [first] = queue.put("a", event_type=SPECIAL)
    queue.put("b", event_type=SPECIAL)
    set_apart(queue)
    [behind] = queue.put("a")
    move_look(queue, -1)
    releases = releases_of(queue, destination)
    await releases.look()
    failing = {"attempt_count": 3, "failed_at": DatabaseNow()}
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.events).where(queue.outbox.events.c.id == first).values(failing))
    move_look(queue, -1)
    await releases.look()
    assert queue.claimed_ids() == [behind]
    assert queue.row(first).waits_for is None
    assert waiting(queue) == {KEY: 1}


async def test_key_that_nothing_waits_for_is_forgotten(queue: Queue) -> None:
    queue.put("a")
    set_apart(queue)
    with queue.engine.begin() as connection:
        connection.execute(delete(queue.outbox.events))
    move_look(queue, -1)
    await releases_of(queue, Destination()).look()
    with queue.engine.connect() as connection:
        assert connection.execute(select(queue.outbox.waits)).all() == []


def test_waiting_events_are_found_among_the_pending_ones(queue: Queue) -> None:
    ids = queue.put("a", "b")
    set_apart(queue)
    ids += queue.put("c")
    found = operations.find_events(queue.engine, queue.outbox, EventFilter(State.PENDING))
    assert [event.id for event in found] == ids[::-1]


def test_oldest_is_of_what_does_not_wait(queue: Queue) -> None:
    queue.put("a")
    set_apart(queue)
    queue.pass_time(LONG)
    assert operations.status(queue.engine, queue.outbox).oldest_pending_seconds is None
    queue.put("b")
    assert (operations.status(queue.engine, queue.outbox).oldest_pending_seconds or 0) < 60
    with queue.engine.begin() as connection:
        waits.release(connection, queue.outbox, KEY)
    assert (operations.status(queue.engine, queue.outbox).oldest_pending_seconds or 0) > 60


@pytest.fixture
def many(outbox_postgres_url: str, outbox: Outbox) -> Iterator[Queue]:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox, (*TYPES, SPECIAL))
    yield queue
    engine.dispose()


def load(queue: Queue, events: int, subjects: int) -> None:
    """So many events that wait, and the row of their key."""
    with queue.engine.begin() as connection:
        waits.note(connection, queue.outbox, {KEY: REASON})
        connection.execute(
            text(
                "INSERT INTO outbox_events "
                "(event_id, event_type, subject, payload, created_at, available_at, waits_for) "
                "SELECT gen_random_uuid(), :type, 'waits-' || n % :subjects, '{}', now(), now() + :wait, :key "
                "FROM generate_series(1, :events) AS numbers(n)"
            ),
            {"events": events, "subjects": subjects, "type": SPECIAL, "wait": WAIT, "key": KEY},
        )


def drained(queue: Queue) -> list[str]:
    """The statements by which a worker claims 200 events of 200 subjects, from its first full pass to its end."""
    queue.put(*(f"driver-{n}" for n in range(200)))
    scan = queue.scan

    def claim() -> list[Event]:
        with queue.engine.begin() as connection:
            return scan.claim(connection, types=queue.types, token=uuid4().hex, lease=LONG, limit=50)

    def claim_all() -> None:
        while claim():
            pass

    statements = [sql for sql, _ in sent_by(queue.engine, claim_all)]
    with queue.engine.begin() as connection:
        c = queue.outbox.events.c
        delivered = {"processed_at": DatabaseNow(), "claim_token": None}
        connection.execute(update(queue.outbox.events).where(c.claim_token.is_not(None)).values(delivered))
        connection.execute(delete(queue.outbox.leases))
    return statements


def test_hundred_thousand_that_wait_cost_others_not_one_statement_nor_a_scan(many: Queue) -> None:
    execute(many.engine, "ANALYZE outbox_events")
    few = len(drained(many))
    load(many, 100_000, 50_000)
    assert len(drained(many)) == few
    execute(many.engine, "VACUUM ANALYZE outbox_events")
    assert len(drained(many)) == few


def test_claim_reads_no_row_of_those_that_wait(many: Queue) -> None:
    load(many, 100_000, 50_000)
    many.put("driver-1", "driver-2")
    claim = next(sent for sent in sent_by(many.engine, many.claim) if "claim_token" in sent[0])
    plan = explain(many.engine, claim)
    read = sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes(plan) if "Index Name" in node)
    assert read < 1000
    scanned = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
    assert scanned <= {"outbox_events_leases"}
