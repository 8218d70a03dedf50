"""What happens next: a subject's open events in the order in which they go, and when the turn of one comes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, func, or_, select

from sqlalchemy_outbox.model import ATTEMPTS_MAX, Outbox, State
from sqlalchemy_outbox.operating.search import EventSummary, as_summary, summaries

# A person reads the first of those that an event waits behind; their number says the rest.
AHEAD_MAX = 5


@dataclass(frozen=True, slots=True)
class Turn:
    """The next attempt at a pending event: it comes once it is due and `ahead_count` events of its subject are done.

    `due_at` is None while the event is set apart. `ahead` are the first of those events.
    """

    attempt: int
    due_at: datetime | None
    ahead: tuple[EventSummary, ...]
    ahead_count: int

    def as_json(self) -> dict[str, object]:
        return {
            "attempt": self.attempt,
            "attempts_max": ATTEMPTS_MAX,
            "due_at": None if self.due_at is None else self.due_at.isoformat(),
            "behind": [str(event.event_id) for event in self.ahead],
            "behind_count": self.ahead_count,
        }


def read_turn(connection: Connection, outbox: Outbox, event: EventSummary) -> Turn | None:
    """None of an event that is not pending. Relies on ix_…_open_subject."""
    if event.state is not State.PENDING:
        return None
    is_ahead = _is_ahead(outbox, event)
    c = outbox.events.c
    ahead = connection.execute(summaries(outbox).where(*is_ahead).order_by(c.id).limit(AHEAD_MAX))
    first = tuple(as_summary(row) for row in ahead)
    count = len(first)
    if count == AHEAD_MAX:
        count = connection.execute(select(func.count()).select_from(outbox.events).where(*is_ahead)).scalar_one()
    return Turn(event.attempt_count + 1, event.due_at, first, count)


def read_queue(connection: Connection, outbox: Outbox, subject: str, limit: int) -> list[EventSummary]:
    """The first `limit` open events of a subject, in the order in which they go. Relies on ix_…_open_subject."""
    c = outbox.events.c
    statement = summaries(outbox).where(c.subject == subject, outbox.is_open_of_subject()).order_by(c.id).limit(limit)
    return [as_summary(row) for row in connection.execute(statement)]


def _is_ahead(outbox: Outbox, event: EventSummary) -> list[ColumnElement[bool]]:
    """Older ones of the subject; and what is on its way, which a retried event lets pass."""
    c = outbox.events.c
    is_before = or_(c.id < event.id, c.claim_token.is_not(None))
    return [c.subject == event.subject, outbox.is_open_of_subject(), c.id != event.id, is_before]
