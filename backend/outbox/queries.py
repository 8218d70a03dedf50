"""The statements by which events are looked at, retried and purged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    case,
    delete,
    false,
    func,
    null,
    select,
    update,
)

from outbox.clock import DatabaseNow, DatabaseNowExactly, SecondsUntil
from outbox.gate import GateStatus, read_gate
from outbox.model import Event, Outbox, State, as_event, event_columns

# A driver with more newer events than this has them all say the same properties.
_NEWER_MAX = 1000


def newer_delivered(connection: Connection, outbox: Outbox, event: Event) -> list[Event]:
    """The events of this one's subject that are newer and delivered, in order; at most the newest thousand."""
    return delivered_of(connection, outbox, event.subject, after=event.id)


def delivered_of(connection: Connection, outbox: Outbox, subject: str, *, after: int = 0) -> list[Event]:
    """The subject's delivered events whose `id` is above `after`, in order; at most the newest thousand.

    A dry run has delivered nothing. Relies on ix_…_delivered_subject.
    """
    c = outbox.events.c
    statement = (
        select(*event_columns(outbox))
        .where(c.subject == subject, c.id > after, c.processed_at.is_not(None), c.dry_run.is_(false()))
        .order_by(c.id.desc())
        .limit(_NEWER_MAX)
    )
    return [as_event(row) for row in reversed(connection.execute(statement).all())]


def retry_failed(connection: Connection, outbox: Outbox, event_ids: Sequence[UUID], types: Sequence[str]) -> set[UUID]:
    """Make failed events of these types pending again with all their attempts; others are left alone.

    The subject's present head is moved to this moment, so that a claim which began before cannot take it: the retried
    event, which is older, goes first. Relies on ix_…_open_subject.
    """
    c = outbox.events.c
    retried = connection.execute(
        update(outbox.events)
        .where(c.event_id.in_(event_ids), c.event_type.in_(types), c.failed_at.is_not(None))
        .values(failed_at=null(), attempt_count=0, available_at=DatabaseNowExactly(), retried_at=DatabaseNowExactly())
        .returning(c.event_id, c.subject)
    ).all()
    subjects = {row.subject for row in retried}
    open_ = outbox.events.alias("open")
    heads = (
        select(func.min(open_.c.id))
        .where(open_.c.subject.in_(subjects), outbox.is_open_of_subject(open_))
        .where(open_.c.event_id.not_in(event_ids))
        .group_by(open_.c.subject)
    )
    connection.execute(
        update(outbox.events)
        .where(c.id.in_(heads), c.claim_token.is_(None), c.available_at < DatabaseNowExactly())
        .values(available_at=DatabaseNowExactly())
    )
    return {row.event_id for row in retried}


def purge_delivered(connection: Connection, outbox: Outbox, older_than: timedelta, limit: int) -> int:
    """Delete up to `limit` events that were delivered longer ago; their number. Relies on ix_…_delivered.

    Events that are newer than a failed one of their subject stay: they say what its retry must not undo.
    """
    c = outbox.events.c
    failed = outbox.events.alias("failed")
    has_older_failure = (
        select(failed.c.id)
        .where(failed.c.subject == c.subject, failed.c.id < c.id, failed.c.failed_at.is_not(None))
        .correlate(outbox.events)
        .exists()
    )
    waiting = outbox.events.alias("waiting")
    has_older_retry = (
        select(waiting.c.id)
        .where(
            waiting.c.subject == c.subject,
            waiting.c.id < c.id,
            outbox.is_open_of_subject(waiting),
        )
        .correlate(outbox.events)
        .exists()
    )
    due = (
        select(c.id)
        .where(c.processed_at < DatabaseNow(-older_than.total_seconds()), ~has_older_failure, ~has_older_retry)
        .order_by(c.processed_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    statement = delete(outbox.events).where(c.id.in_(select(due.c.id))).returning(c.id)
    return len(connection.execute(statement).all())


def seconds_to_next_again(connection: Connection, outbox: Outbox) -> float | None:
    """Seconds until the first event that was pushed back is due, negative when it is; None when there is none.

    Relies on ix_…_backing_off.
    """
    c = outbox.events.c
    first = select(func.min(c.available_at)).where(outbox.is_pushed_back(), c.claim_token.is_(None)).scalar_subquery()
    seconds: float | None = connection.execute(select(SecondsUntil(first))).scalar_one()
    return seconds


def seconds_to_lease_end(connection: Connection, outbox: Outbox, since: timedelta) -> float | None:
    """Seconds until the first lease runs out, or since it did if that was within the time `since`; None without any.

    Relies on ix_…_claimed.
    """
    c = outbox.events.c
    first = (
        select(func.min(c.claimed_until))
        .where(c.claim_token.is_not(None), c.claimed_until >= DatabaseNow(-since.total_seconds()))
        .scalar_subquery()
    )
    seconds: float | None = connection.execute(select(SecondsUntil(first))).scalar_one()
    return seconds


def longest_due_seconds(connection: Connection, outbox: Outbox, types: Sequence[str]) -> float:
    """For how long the pending event of these types that has been due the longest could have been claimed; else 0."""
    c = outbox.events.c
    first = select(SecondsUntil(func.min(c.available_at))).where(
        outbox.is_open(), c.claim_token.is_(None), c.event_type.in_(types)
    )
    return max(0.0, -(connection.execute(first).scalar_one() or 0.0))


@dataclass(frozen=True, slots=True)
class Status:
    """What an operator asks first. Counts are events; the age is that of the oldest one still pending or claimed."""

    pending: int
    claimed: int
    delivered: int
    failed: int
    oldest_pending_seconds: float | None
    gate: GateStatus

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"gate": self.gate.as_json()}


def read_status(connection: Connection, outbox: Outbox) -> Status:
    """Count the events by state and read the gate. Open and failed events are counted by their partial indexes."""
    c = outbox.events.c
    count, claimed, oldest = connection.execute(
        select(func.count(), func.count(c.claim_token), SecondsUntil(func.min(c.created_at))).where(outbox.is_open())
    ).one()
    return Status(
        pending=count - claimed,
        claimed=claimed,
        delivered=_count(connection, outbox, c.processed_at.is_not(None)),
        failed=_count(connection, outbox, c.failed_at.is_not(None)),
        oldest_pending_seconds=None if oldest is None else round(max(0.0, -oldest), 3),
        gate=read_gate(connection, outbox),
    )


def exist(connection: Connection, outbox: Outbox, event_ids: Collection[UUID]) -> bool:
    """Whether the outbox has all of these events. Relies on uq_…_event_id."""
    statement = select(func.count()).select_from(outbox.events).where(outbox.events.c.event_id.in_(event_ids))
    return connection.execute(statement).scalar_one() == len(event_ids)


@dataclass(frozen=True, slots=True)
class EventState:
    """One event as an operator sees it."""

    event_id: UUID
    state: State
    attempt_count: int
    last_error: str | None


def read_event(connection: Connection, outbox: Outbox, event_id: UUID) -> EventState | None:
    c = outbox.events.c
    state = case(
        (c.processed_at.is_not(None), State.DELIVERED.value),
        (c.failed_at.is_not(None), State.FAILED.value),
        (c.claim_token.is_not(None), State.CLAIMED.value),
        else_=State.PENDING.value,
    )
    statement = select(state.label("state"), c.attempt_count, c.last_error).where(c.event_id == event_id)
    row = connection.execute(statement).one_or_none()
    return row and EventState(event_id, State(row.state), row.attempt_count, row.last_error)


def _count(connection: Connection, outbox: Outbox, condition: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(outbox.events).where(condition)).scalar_one()
