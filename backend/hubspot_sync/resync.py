"""Subjects are sent anew: the events that say how they stand now are stored behind whatever was stored before.

The backfill of who was there before, the step from a dry run to live, and the mend for a lost event or for a contact
that was deleted by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from hubspot_sync.event import Catalog
from hubspot_sync.present_state import PresentEvent, PresentState
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.operating import audit
from sqlalchemy_outbox.operating.audit import Action
from sqlalchemy_outbox.operating.search import ids_of

# Their rows stay locked until their events are stored, and requests of these subjects wait for as long.
SUBJECTS_AT_ONCE = 100


class EventsLost(Exception):
    """The outbox did not take the events, and its log says why; nothing of these subjects was stored."""


@dataclass(frozen=True, slots=True)
class Progress:
    """So many subjects are done, up to `last` in order, and so many events were stored for them."""

    subjects: int = 0
    events: int = 0
    last: str | None = None
    unknown: tuple[str, ...] = ()


class Resync:
    """Stores present state in transactions of bounded size. Each commits before its progress is told.

    `by` is who does it. It becomes an entry of the audit, with what was asked for and, linked to it, the events.
    """

    def __init__(self, engine: Engine, outbox: Outbox, catalog: Catalog, state: PresentState, *, by: str) -> None:
        self._engine = engine
        self._outbox = outbox
        self._catalog = catalog
        self._state = state
        self._by = by
        self._entry_id: int | None = None

    def count(self, after: str | None = None) -> int:
        """How many subjects `all` would send anew."""
        with Session(self._engine) as db:
            return self._state.count_after(db, after)

    def all(self, after: str | None = None) -> Iterator[Progress]:
        """Send every subject after the cursor anew; interrupted, it goes on after the last progress's `last`."""
        progress = Progress(last=after)
        while subjects := self._next(progress.last):
            progress = self._store(subjects, progress, {"all": True, "after": after})
            yield progress

    def these(self, subjects: Sequence[str]) -> Iterator[Progress]:
        """Send these subjects anew; those that do not exist are told as unknown."""
        progress = Progress()
        wanted = sorted(set(subjects))
        for start in range(0, len(wanted), SUBJECTS_AT_ONCE):
            progress = self._store(wanted[start : start + SUBJECTS_AT_ONCE], progress, {"subjects": wanted})
            yield progress

    def _next(self, after: str | None) -> Sequence[str]:
        with Session(self._engine) as db:
            return self._state.subjects_after(db, after, SUBJECTS_AT_ONCE)

    def _store(self, subjects: Sequence[str], before: Progress, asked_for: Mapping[str, object]) -> Progress:
        with Session(self._engine) as db, db.begin():
            events = self._state.events_of(db, subjects)
            event_ids = [self._enqueue(db, event) for of_subject in events.values() for event in of_subject]
            if event_ids and self._entry_id is None:
                self._entry_id = audit.record(
                    db.connection(), self._outbox, Action.RESYNC, by=self._by, detail=asked_for
                )
        self._link(event_ids)
        return Progress(
            before.subjects + len(events),
            before.events + len(event_ids),
            last=subjects[-1],
            unknown=(*before.unknown, *(subject for subject in subjects if subject not in events)),
        )

    def _enqueue(self, db: Session, event: PresentEvent) -> UUID:
        subject = self._catalog.subject_of(event.payload)
        objection = self._catalog.objection_to(event.event_type, event.payload)
        return enqueue(db, self._outbox, event.event_type, subject, event.payload, error=objection)

    def _link(self, event_ids: Sequence[UUID]) -> None:
        """Link the stored events to the audit's entry; raise EventsLost when they were not stored.

        A request must not fail because of the outbox, so its write fails quietly. Here it is all that was meant.
        """
        if self._entry_id is None:
            return
        with self._engine.begin() as connection:
            ids = ids_of(connection, self._outbox, event_ids)
            if len(ids) < len(event_ids):
                raise EventsLost(" ".join((EventsLost.__doc__ or "").split()))
            audit.add_events(connection, self._outbox, self._entry_id, ids)
