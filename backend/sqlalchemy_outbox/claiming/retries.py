"""First events of their subjects that a backoff or a retry by hand has pushed back, and when they are due again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil
from sqlalchemy_outbox.database.plan_hints import looked_up
from sqlalchemy_outbox.model import Outbox


class DueRetry(NamedTuple):
    """The first event of a subject, due again after it was pushed back."""

    id: int
    subject: str
    attempt_count: int


def due_retries(connection: Connection, outbox: Outbox, types: Sequence[str], limit: int) -> list[DueRetry]:
    """Up to `limit` subjects' first events, of these types, that were pushed back and are due, the longest due first.

    Relies on ix_…_backing_off, and for each on ix_…_open_subject.
    """
    c, earlier = outbox.events.c, outbox.events.alias("earlier")
    has_earlier = select(earlier.c.id).where(
        earlier.c.subject == c.subject, earlier.c.id < c.id, outbox.is_open_of_subject(earlier)
    )
    statement = (
        select(c.id, c.subject, c.attempt_count)
        .where(
            outbox.is_pushed_back(),
            c.claim_token.is_(None),
            c.available_at <= DatabaseNow(),
            c.event_type.in_(types),
            ~looked_up(has_earlier, outbox.events),
        )
        .order_by(c.available_at)
        .limit(limit)
    )
    return [DueRetry._make(row) for row in connection.execute(statement)]


def seconds_to_next_retry(connection: Connection, outbox: Outbox) -> float | None:
    """Seconds until the first event that was pushed back is due, negative when it is; None when there is none.

    Relies on ix_…_backing_off.
    """
    c = outbox.events.c
    first = select(func.min(c.available_at)).where(outbox.is_pushed_back(), c.claim_token.is_(None)).scalar_subquery()
    seconds: float | None = connection.execute(select(SecondsUntil(first))).scalar_one()
    return seconds
