"""The queue as tests hold it: short words for enqueue, claim, settle, and for the passing of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from uuid import uuid4

from sqlalchemy import Engine, Row, select, update
from sqlalchemy.orm import Session

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.claiming.scan import Scan
from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.housekeeping.purge import Purge
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import Event, Outbox
from sqlalchemy_outbox.operations import EventIds
from sqlalchemy_outbox.outcome import Outcome
from sqlalchemy_outbox.settling import leases, settlement

TYPES = ["something_happened"]
LONG_AGO = timedelta(days=365)


class LongestWait(Random):
    """Draws the longest backoff there is: a short one would end by itself while a busy machine pauses a test."""

    def random(self) -> float:
        return 1.0


@dataclass
class Queue:
    engine: Engine
    outbox: Outbox
    types: tuple[str, ...] = tuple(TYPES)
    random: Random = field(default_factory=LongestWait)

    def put(self, *subjects: str, event_type: str = TYPES[0]) -> list[int]:
        """Enqueue one event for each subject, in order; their ids."""
        with Session(self.engine) as session, session.begin():
            event_ids = [enqueue(session, self.outbox, event_type, it, {"n": n}) for n, it in enumerate(subjects)]
        c = self.outbox.events.c
        with self.engine.connect() as connection:
            return list(connection.execute(select(c.id).where(c.event_id.in_(event_ids)).order_by(c.id)).scalars())

    @property
    def scan(self) -> Scan:
        """That of a worker which has just started."""
        return Scan(self.outbox)

    def claim(self, token: str | None = None, limit: int = 50) -> tuple[str, list[Event]]:
        token = token or uuid4().hex
        with self.engine.begin() as connection:
            return token, self.scan.claim(connection, types=self.types, token=token, lease=LEASE, limit=limit)

    def claimed_ids(self, limit: int = 50) -> list[int]:
        return [event.id for event in self.claim(limit=limit)[1]]

    def settle(self, token: str, events: list[Event], outcome: Outcome) -> set[int]:
        """Settle all events with one outcome; the ids that the token still held."""
        return self.settle_each(token, events, {event.id: outcome for event in events})

    def settle_each(self, token: str, events: list[Event], outcomes: Mapping[int, Outcome]) -> set[int]:
        rows = settlement.settle(events, outcomes, self.random)
        with self.engine.begin() as connection:
            return set(leases.settle(connection, self.outbox, token, rows).ids)

    def charge_lost_leases(self) -> None:
        with self.engine.begin() as connection:
            for token, events in leases.take_expired(connection, self.outbox, limit=100, since=LONG_AGO).items():
                rows = settlement.charge_lost_leases(events, self.random)
                leases.settle(connection, self.outbox, token, rows)

    def pass_time(self, by: timedelta) -> None:
        """Move every stored instant that something waits for back, as if time had passed."""
        seconds = -by.total_seconds()
        c, g, d = self.outbox.events.c, self.outbox.gate.c, self.outbox.records.discarded.c
        of_events = (c.created_at, c.available_at, c.processed_at)
        of_gate = (g.until, g.until_set_at, g.next_slot_at)
        with self.engine.begin() as connection:
            for column in (*of_events, self.outbox.leases.c.until, *of_gate, d.discarded_at):
                earlier = DatabaseNow(SecondsUntil(column) + seconds)
                connection.execute(update(column.table).where(column.is_not(None)).values({column: earlier}))

    def retry(self, *ids: int, is_cautious: bool = False) -> None:
        chosen = EventIds(frozenset(self.row(id_).event_id for id_ in ids))
        *_, last = operations.retry(self.engine, self.outbox, chosen, self.types, by="test", is_cautious=is_cautious)
        assert last.done == len(ids)

    def discard(self, *ids: int) -> int:
        """Discard those of the events that have failed; their number."""
        selection = EventIds(frozenset(self.row(id_).event_id for id_ in ids))
        *_, last = operations.discard(self.engine, self.outbox, selection, by="test", reason="no longer true")
        return last.done

    def hand_back(self, token: str) -> None:
        with self.engine.begin() as connection:
            leases.hand_back(connection, self.outbox, token)

    def event(self, id_: int) -> Event:
        """The event as a claim would return it."""
        row = self.row(id_)
        return Event(*(getattr(row, name) for name in Event._fields))

    def purge(self, older_than: timedelta, limit: int = 1000) -> int:
        with self.engine.begin() as connection:
            return Purge(self.outbox, older_than, at_once=limit).step(connection)

    def exists(self, id_: int) -> bool:
        with self.engine.connect() as connection:
            c = self.outbox.events.c
            return connection.execute(select(c.id).where(c.id == id_)).one_or_none() is not None

    def row(self, id_: int) -> Row[tuple[object, ...]]:
        with self.engine.connect() as connection:
            return connection.execute(select(self.outbox.events).where(self.outbox.events.c.id == id_)).one()
