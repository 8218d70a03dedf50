"""A subject that was forgotten leaves the outbox: what waits is refused, what ended is deleted, words are taken out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Row, select, text, update
from sqlalchemy.orm import Session

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.enqueueing.forgetting import ERASURE, ErasureWay, forget
from sqlalchemy_outbox.erasure.erasures import Facts
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import REFUSED, Event, Outbox, State
from sqlalchemy_outbox.operating.selection import EventFilter
from sqlalchemy_outbox.outcome import Delivered, Outcome, Place, Rejected, Retry, Waiting
from sqlalchemy_outbox.settling.deliveries import Delivery
from tests.outbox.queue import TYPES, Queue

KEY = "k" * 32
# No other text of an outbox has it by chance.
SUBJECT, ADDRESS, RECORD = "subject-ada-4711", "ada.4711@example.com", "800004711"


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Iterator[Queue]:
    outbox.names.use_key(KEY)
    yield Queue(engine, outbox)
    outbox.names.use_key("")


class Destination:
    """Takes what it is given; of an erasure it knows what it was told to remember."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.delivered: list[str] = []
        self.erased: list[tuple[Place | None, Facts]] = []

    async def __call__(self, claim: Claim, _gate: Gate) -> Mapping[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        for event in claim.events:
            if event.event_type != ERASURE:
                self.delivered.append(event.subject)
                record = RECORD if event.subject == SUBJECT else "1"
                outcomes[event.id] = Delivered(place=Place(record, "k"))
                words = f"delivered to contact {record}"
                claim.note(Delivery("upsert", 0.0, timedelta(0), "delivered", {event.id: words}))
                continue
            known = await claim.known(event)
            self.erased.append((known.place, known.facts))
            outcomes[event.id] = (
                self.outcomes.pop(0) if self.outcomes else Delivered(told={"contacts": 1}, words=(RECORD,))
            )
        return outcomes

    @staticmethod
    def remember(facts: Facts, events: Sequence[Event]) -> Facts:
        words: Any = facts.get("words", [])
        return {**facts, "words": sorted({*words, *(json.loads(event.payload).get("email", "") for event in events)})}


def put(queue: Queue, *subjects: str) -> None:
    with Session(queue.engine) as session, session.begin():
        for subject in subjects:
            mentioned = ADDRESS if subject == SUBJECT else "eve@example.com"
            enqueue(session, queue.outbox, TYPES[0], subject, {"user_id": subject, "email": mentioned})


def forget_her(queue: Queue) -> None:
    with Session(queue.engine) as session, session.begin():
        forget(session, queue.outbox, SUBJECT, {"user_id": SUBJECT}, reason="she asked for it", way=ErasureWay.ERASE)


def deliver(queue: Queue, destination: Destination) -> None:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=1000)
    worker = Worker(
        *(queue.outbox, queue.engine, destination, gate),
        types=[*TYPES, ERASURE],
        random=queue.random,
        remember=Destination.remember,
    )
    asyncio.run(worker.drain())


def look_later(queue: Queue, destination: Destination) -> None:
    """As workers do a while later."""
    with queue.engine.begin() as connection:
        connection.execute(update(queue.outbox.erasures).values(look_at=queue.outbox.erasures.c.forgotten_at))
    queue.pass_time(timedelta(minutes=10))
    deliver(queue, destination)


def erasure_of(queue: Queue) -> Row[Any]:
    with queue.engine.connect() as connection:
        return connection.execute(select(queue.outbox.erasures)).one()


def traces(engine: Engine) -> list[str]:
    """Where anything that names her is left: tables, by their rows, and on SQLite the files."""
    found = []
    words = (SUBJECT, ADDRESS, RECORD)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            tables = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        else:
            tables = (
                connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
            )
        for table in tables:
            for row in connection.execute(text(f"SELECT * FROM {table}")):
                found += [f"{table}: {row}" for word in words if word in str(row)]
    if engine.dialect.name == "sqlite":
        engine.dispose()
        for file in Path(str(engine.url.database)).parent.iterdir():
            found += [f"{file.name}: {word}" for word in words if word.encode() in file.read_bytes()]
    return found


def test_forgotten_subject_leaves_no_trace_in_any_table_or_file(queue: Queue) -> None:
    destination = Destination()
    put(queue, SUBJECT, SUBJECT, "eve")
    deliver(queue, destination)
    failed, discarded, eves = queue.put(SUBJECT, SUBJECT, "eve")
    token, events = queue.claim()
    queue.settle_each(
        token,
        events,
        {
            failed: Rejected(f"the address {ADDRESS} of {SUBJECT} is taken"),
            discarded: Rejected("no"),
            eves: Rejected(f"contact {RECORD}, which is {SUBJECT}'s, has it"),
        },
    )
    queue.discard(discarded)
    operations.reveal(queue.engine, queue.outbox, SUBJECT, by="test")
    operations.hold(queue.engine, queue.outbox, f"look at {SUBJECT}", by="test")
    put(queue, SUBJECT)
    forget_her(queue)
    assert len(traces(queue.engine)) > 10
    operations.release(queue.engine, queue.outbox, by="test")
    deliver(queue, destination)
    assert destination.delivered == [SUBJECT, SUBJECT, "eve"]
    [(place, facts)] = destination.erased
    assert (place, facts) == (Place(RECORD, "k"), {"user_id": SUBJECT, "words": sorted(["", ADDRESS])})
    deliver(queue, destination)
    assert traces(queue.engine) == []
    erasure = erasure_of(queue)
    assert erasure.cleaned_at is not None
    assert json.loads(erasure.told) == {"contacts": 1}
    removed = json.loads(erasure.removed)
    assert removed == {"deleted": 3, "discarded": 1, "words": 5}
    assert queue.row(eves).last_error == "contact [forgotten], which is [forgotten]'s, has it"


def test_what_waits_is_refused_though_it_backs_off_or_is_set_apart_and_nothing_of_it_is_sent(queue: Queue) -> None:
    retried, apart = queue.put(SUBJECT, f"{SUBJECT}-b")[0], 0
    token, events = queue.claim()
    queue.settle_each(token, events, {events[0].id: Retry("later"), events[1].id: Waiting("k", "no such thing")})
    del retried, apart
    put(queue, *[SUBJECT] * 120)
    forget_her(queue)
    destination = Destination()
    deliver(queue, destination)
    deliver(queue, destination)
    assert (destination.delivered, len(destination.erased)) == ([], 1)
    assert _refused(queue) == 121
    assert erasure_of(queue).erased_at is not None


def _refused(queue: Queue) -> int:
    c = queue.outbox.events.c
    with queue.engine.connect() as connection:
        return len(connection.execute(select(c.id).where(c.last_error == REFUSED)).all())


def test_refusals_are_neither_retried_nor_discarded_nor_counted_as_failures(queue: Queue) -> None:
    forget_her(queue)
    put(queue, SUBJECT)
    [failed] = queue.put("eve")
    queue.settle(*queue.claim(), Rejected("no"))
    found = operations.status(queue.engine, queue.outbox)
    assert (found.failed, found.refused, found.forgetting) == (1, 1, 1)
    assert [it.reason for it in operations.failure_reasons(queue.engine, queue.outbox)] == ["no"]
    everything = EventFilter(state=State.FAILED)
    assert [it.id for it in operations.find_events(queue.engine, queue.outbox, everything)] == [failed]
    assert operations.count(queue.engine, queue.outbox, EventFilter()) == 1
    *_, done = operations.retry(queue.engine, queue.outbox, EventFilter(), [*TYPES, ERASURE], by="test")
    assert done.done == 1
    *_, done = operations.discard(queue.engine, queue.outbox, EventFilter(), by="test", reason="no longer true")
    assert done.done == 0
    queue.pass_time(timedelta(days=40))
    with queue.engine.begin() as connection:
        connection.execute(
            update(queue.outbox.events)
            .values(failed_at=queue.outbox.events.c.created_at)
            .where(queue.outbox.is_refusal())
        )
    queue.purge(timedelta(days=30))
    assert operations.status(queue.engine, queue.outbox).refused == 0


def test_event_of_code_without_the_key_is_refused_by_the_worker(queue: Queue) -> None:
    destination = Destination()
    forget_her(queue)
    deliver(queue, destination)
    queue.outbox.names.use_key("")
    put(queue, SUBJECT, "eve")
    queue.outbox.names.use_key(KEY)
    deliver(queue, destination)
    assert destination.delivered == ["eve"]
    assert _refused(queue) == 1
    assert traces(queue.engine) == []


def test_tables_are_cleaned_though_the_gate_is_held_and_the_destination_erases_later(queue: Queue) -> None:
    destination = Destination()
    put(queue, SUBJECT)
    deliver(queue, destination)
    put(queue, SUBJECT)
    operations.hold(queue.engine, queue.outbox, "import", by="test")
    forget_her(queue)
    deliver(queue, destination)
    c = queue.outbox.events.c
    with queue.engine.connect() as connection:
        hers = connection.execute(select(c.event_type, c.payload).where(c.subject == SUBJECT)).all()
    assert [event_type for event_type, _ in hers] == [ERASURE]
    assert (destination.erased, _refused(queue)) == ([], 1)
    operations.release(queue.engine, queue.outbox, by="test")
    deliver(queue, destination)
    [(place, facts)] = destination.erased
    assert (place, facts["words"]) == (Place(RECORD, "k"), [ADDRESS])
    deliver(queue, destination)
    assert traces(queue.engine) == []


def test_erasure_that_is_refused_fails_and_is_done_once_it_is_retried(queue: Queue) -> None:
    destination = Destination(Rejected("not allowed"))
    put(queue, SUBJECT)
    deliver(queue, destination)
    forget_her(queue)
    deliver(queue, destination)
    found = operations.status(queue.engine, queue.outbox)
    assert (found.failed, found.forgetting) == (1, 1)
    *_, done = operations.discard(queue.engine, queue.outbox, EventFilter(), by="test", reason="no")
    assert done.done == 0
    [*_] = operations.retry(queue.engine, queue.outbox, EventFilter(), [*TYPES, ERASURE], by="test")
    deliver(queue, destination)
    deliver(queue, destination)
    assert len(destination.erased) == 2
    assert traces(queue.engine) == []


def test_second_erasure_ends_one_that_has_failed(queue: Queue) -> None:
    destination = Destination(Rejected("not allowed"))
    put(queue, SUBJECT)
    deliver(queue, destination)
    for _ in range(2):
        forget_her(queue)
        deliver(queue, destination)
    deliver(queue, destination)
    found = operations.status(queue.engine, queue.outbox)
    assert (found.failed, found.forgetting) == (0, 0)
    assert traces(queue.engine) == []


def test_what_is_in_flight_ends_before_its_subject_is_erased(queue: Queue) -> None:
    destination = Destination()
    put(queue, SUBJECT)
    token, events = queue.claim()
    forget_her(queue)
    deliver(queue, destination)
    assert destination.erased == []
    queue.settle(token, events, Delivered(place=Place(RECORD, "k")))
    look_later(queue, destination)
    assert [place for place, _ in destination.erased] == [Place(RECORD, "k")]
    deliver(queue, destination)
    assert traces(queue.engine) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_transaction_that_did_not_see_the_mark_is_waited_for(queue: Queue) -> None:
    destination = Destination()
    with Session(queue.engine) as late:
        late.connection().execute(text("LOCK TABLE outbox_events IN ROW EXCLUSIVE MODE"))
        forget_her(queue)
        deliver(queue, destination)
        assert destination.erased == []
        insert = "INSERT INTO outbox_events (event_id, event_type, subject, payload, created_at, available_at) "
        values = f"VALUES (gen_random_uuid(), '{TYPES[0]}', '{SUBJECT}', '{{}}', now(), now())"
        late.connection().execute(text(insert + values))
        late.commit()
    look_later(queue, destination)
    deliver(queue, destination)
    assert (destination.delivered, len(destination.erased)) == ([], 1)
    assert traces(queue.engine) == []


def test_worker_that_dies_between_the_erasure_and_its_settle_is_followed_by_one_that_ends_it(queue: Queue) -> None:
    destination = Destination()
    put(queue, SUBJECT)
    deliver(queue, destination)
    forget_her(queue)
    destination.outcomes = [Retry("the worker that had claimed it stopped answering", is_in_doubt=True)]
    deliver(queue, destination)
    look_later(queue, destination)
    queue.types = (*TYPES, ERASURE)
    assert queue.claim() != []
    queue.pass_time(timedelta(minutes=1))
    queue.charge_lost_leases()
    look_later(queue, destination)
    deliver(queue, destination)
    assert len(destination.erased) >= 2
    assert traces(queue.engine) == []


def test_subject_nobody_knows_and_one_forgotten_twice_are_erased_as_any(queue: Queue) -> None:
    destination = Destination()
    forget_her(queue)
    forget_her(queue)
    deliver(queue, destination)
    deliver(queue, destination)
    assert len(destination.erased) == 2
    assert traces(queue.engine) == []
