"""For your application's own tests: see what was enqueued, and deliver it to a destination that records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, select, update

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim, Deliver
from sqlalchemy_outbox.gate.gate import Gate
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


def enqueued(engine: Engine, outbox: Outbox, event_type: str | None = None) -> list[Enqueued]:
    """Every committed event of the outbox, or of one type, in order."""
    c = outbox.events.c
    statement = select(c.event_type, c.subject, c.payload).order_by(c.id)
    if event_type is not None:
        statement = statement.where(c.event_type == event_type)
    with engine.connect() as connection:
        return [Enqueued(row.event_type, row.subject, json.loads(row.payload)) for row in connection.execute(statement)]


def assert_enqueued(engine: Engine, outbox: Outbox, event_type: str, **payload: object) -> Enqueued:
    """Return the one event of this type whose payload has these values; fail the test when there is not just one."""
    candidates = enqueued(engine, outbox, event_type)
    found = [it for it in candidates if payload.items() <= it.payload.items()]
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
