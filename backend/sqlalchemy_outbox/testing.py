"""For your application's own tests: see what was enqueued, and deliver it to a destination that records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.database.engines import worker_engine
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim, Deliver
from sqlalchemy_outbox.enqueueing import commits
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.migrations import migrate
from sqlalchemy_outbox.model import Event, Outbox
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed, Retry, Waiting

# Tests do not wait for the rate.
_REQUESTS_PER_SECOND = 1_000_000.0
# A destination that never lets an event go would keep a drain busy for ever.
_ROUNDS_MAX = 100


@dataclass(frozen=True, slots=True)
class Enqueued:
    """One event as it was stored, in whatever state."""

    event_type: str
    subject: str
    payload: dict[str, Any]


def create_tables(engine: Engine | AsyncEngine, outbox: Outbox) -> None:
    """Make the outbox's tables as its migrations do; those that are there stay as they are."""
    with _synchronous(engine) as own, own.begin() as connection:
        migrate(connection, outbox)


def enqueued(where: Engine | AsyncEngine | Connection, outbox: Outbox, event_type: str | None = None) -> list[Enqueued]:
    """Every event of the outbox, or of one type, in order.

    Of an engine those that are committed; of an async one too, without an await, by a connection of its own. Of a
    connection also those that its transaction is to write, for a test that rolls it back: an async one's by
    `await connection.run_sync(enqueued, OUTBOX)`.
    """
    found = _rows(where, outbox)
    return [event for event in found if event_type is None or event.event_type == event_type]


def _rows(where: Engine | AsyncEngine | Connection, outbox: Outbox) -> list[Enqueued]:
    c = outbox.events.c
    statement = select(c.event_type, c.subject, c.payload).order_by(c.id)
    if isinstance(where, Connection):
        rows: list[Any] = list(where.execute(statement))
        rows += [permit.row for permit in commits.waiting(where) if permit.outbox is outbox]
    else:
        with _synchronous(where) as own, own.connect() as connection:
            rows = list(connection.execute(statement))
    return [Enqueued(row.event_type, row.subject, json.loads(row.payload)) for row in rows]


def assert_enqueued(
    where: Engine | AsyncEngine | Connection, outbox: Outbox, event_type: str, **payload: object
) -> Enqueued:
    """Return the one event of this type whose payload has these values; fail the test when there is not just one."""
    candidates = enqueued(where, outbox, event_type)
    found = [candidate for candidate in candidates if payload.items() <= candidate.payload.items()]
    assert len(found) == 1, f"{len(found)} events {event_type} with {payload}; of that type there are: {candidates}"
    return found[0]


async def drain(engine: Engine, outbox: Outbox, deliver: Deliver) -> None:
    """Deliver until every event is delivered or failed; what backs off is made due at once."""
    c = outbox.events.c
    with engine.connect() as connection:
        types = list(connection.execute(select(c.event_type).distinct()).scalars())
    for _ in range(_ROUNDS_MAX):
        gate = Gate(outbox, engine, _REQUESTS_PER_SECOND)
        await Worker(outbox, engine, deliver, gate, types=types).drain()
        with engine.begin() as connection:
            make_due = update(outbox.events).where(outbox.is_open()).values(available_at=DatabaseNow()).returning(c.id)
            if not connection.execute(make_due).all():
                return
    raise AssertionError(f"events of {outbox.name} are still open after {_ROUNDS_MAX} rounds; is the gate shut?")


@contextmanager
def _synchronous(engine: Engine | AsyncEngine) -> Iterator[Engine]:
    if isinstance(engine, Engine):
        yield engine
        return
    own = worker_engine(engine, poolclass=NullPool)
    try:
        yield own
    finally:
        own.dispose()


def _deliver_it(_event: Event) -> Outcome:
    return Delivered()


@dataclass(slots=True)
class RecordingDestination:
    """A destination that notes each batch it gets, and answers with `answer` for each event; delivered by default."""

    answer: Callable[[Event], Outcome] = _deliver_it
    batches: list[list[Event]] = field(default_factory=list)

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        await gate.enter(claim.lease)
        self.batches.append(list(claim.events))
        outcomes: dict[int, Outcome] = {}
        stuck: set[str] = set()
        for event in claim.events:
            outcome = Postponed() if event.subject in stuck else self.answer(event)
            if isinstance(outcome, Retry | Postponed | Waiting):
                stuck.add(event.subject)
            outcomes[event.id] = outcome
        return outcomes

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]
