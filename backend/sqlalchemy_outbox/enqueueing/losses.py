"""Events that a transaction goes without: each is counted and logged, with what happened and no one's address."""

from __future__ import annotations

import logging
from uuid import UUID

from prometheus_client import Counter

EVENTS_LOST = Counter("outbox_events_lost", "Events whose transaction committed, or goes on, without them.")
# Named after the call that an operator knows.
log = logging.getLogger("sqlalchemy_outbox.enqueue")

COMMITTED_WITHOUT = "Its transaction committed without it."
GOES_ON_WITHOUT = "It was refused, and its transaction goes on without it."


def record_loss(event_id: UUID | str, event_type: object, subject: str | None, reason: str, fate: str) -> None:
    """Count and log an event that its transaction will not have; `fate` is one of the two sentences above."""
    EVENTS_LOST.inc()
    type_ = as_type(event_type)
    log.error(
        "Event %s (%s of %s) is lost: %s. %s",
        *(event_id, type_, subject, reason.rstrip("."), fate),
        extra={"event_id": str(event_id), "event_type": type_, "subject": subject},
    )


def as_type(event_type: object) -> str:
    """An event's type, or the name of what was given instead."""
    return event_type if isinstance(event_type, str) else type(event_type).__name__


def log_uncommitted(level: int, event_id: str, event_type: str, subject: str, what_happened: str) -> None:
    """Log an event that does not exist because its transaction never committed; nothing is lost, so nothing counts."""
    log.log(
        level,
        "Event %s (%s of %s) was not committed: %s.",
        *(event_id, event_type, subject, what_happened),
        extra={"event_id": event_id, "event_type": event_type, "subject": subject},
    )
