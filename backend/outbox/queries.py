"""Every statement on the events' table, one function each. All take a connection and leave the commit to its owner."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    false,
    func,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSON

from outbox.clock import DatabaseNow, DatabaseNowExactly, SecondsUntil
from outbox.gate import GateStatus, read_gate
from outbox.model import Event, Outbox, State
from outbox.settlement import Settlement

_NO_LIMIT = 2**62
# A driver with more newer events than this has them all say the same properties.
_NEWER_MAX = 1000


def claim(
    connection: Connection,
    outbox: Outbox,
    *,
    types: Sequence[str],
    token: str,
    lease: timedelta,
    limit: int,
    subject: str | None = None,
) -> list[Event]:
    """Claim up to `limit` due events for `token`, in the order of their subjects' first events.

    Takes subjects' heads (no earlier event of the subject is open) that no one else is claiming, and with each head
    the run of takeable events behind it. A charged event is claimed alone. `subject` limits the claim to one subject.
    Relies on ix_…_open and ix_…_open_subject.
    """
    parameters: dict[str, object] = {
        "types": list(types),
        "token": token,
        "lease": lease.total_seconds(),
        "limit": limit,
    }
    if subject is not None:
        parameters["only_subject"] = subject
    rows = connection.execute(_claim(outbox, subject is not None), parameters).all()
    return sorted((_as_event(row) for row in rows), key=lambda event: event.id)


def settle(connection: Connection, outbox: Outbox, token: str, settlements: Sequence[Settlement]) -> set[int]:
    """Settle those of the events that `token` still holds, and return their ids; others are left as they are."""
    if not settlements:
        return set()
    rows = json.dumps([asdict(it) for it in settlements])
    statement = _settle(outbox, connection.dialect.name)
    return set(connection.execute(statement, {"rows": rows, "token": token}).scalars())


def renew(connection: Connection, outbox: Outbox, tokens: Iterable[str], lease: timedelta) -> set[str]:
    """Extend the leases of `tokens`, and return those that are still held. Relies on ix_…_claimed."""
    c = outbox.events.c
    statement = (
        update(outbox.events)
        .where(c.claim_token.in_(list(tokens)), c.claimed_until.is_not(None))
        .values(claimed_until=DatabaseNow(lease.total_seconds()))
        .returning(c.claim_token)
    )
    return {token for token in connection.execute(statement).scalars() if token}


def take_expired(connection: Connection, outbox: Outbox, *, token: str, lease: timedelta, limit: int) -> list[Event]:
    """Take over events whose lease ran out, so that `token` can charge them. Relies on ix_…_claimed."""
    c = outbox.events.c
    expired = (
        select(c.id)
        .where(c.claim_token.is_not(None), c.claimed_until < DatabaseNow())
        .order_by(c.claimed_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("expired")
    )
    statement = (
        update(outbox.events)
        .where(c.id.in_(select(expired.c.id)))
        .values(claim_token=token, claimed_until=DatabaseNow(lease.total_seconds()))
        .returning(*_event_columns(outbox))
    )
    return [_as_event(row) for row in connection.execute(statement)]


def hand_back(connection: Connection, outbox: Outbox, token: str) -> int:
    """Return what `token` still holds to pending, uncharged; the number of events."""
    c = outbox.events.c
    statement = update(outbox.events).where(c.claim_token == token).values(claim_token=null(), claimed_until=null())
    return connection.execute(statement).rowcount


def newer_delivered(connection: Connection, outbox: Outbox, event: Event) -> list[Event]:
    """The events of this one's subject that are newer and delivered, in order; at most the newest thousand."""
    c = outbox.events.c
    statement = (
        select(*_event_columns(outbox))
        .where(c.subject == event.subject, c.id > event.id, c.processed_at.is_not(None), c.dry_run.is_(false()))
        .order_by(c.id.desc())
        .limit(_NEWER_MAX)
    )
    return [_as_event(row) for row in reversed(connection.execute(statement).all())]


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
        .where(open_.c.subject.in_(subjects), open_.c.processed_at.is_(None), open_.c.failed_at.is_(None))
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
            waiting.c.processed_at.is_(None),
            waiting.c.failed_at.is_(None),
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


def seconds_to_next_due(connection: Connection, outbox: Outbox) -> float | None:
    """Seconds until the first event that backs off is due, or the first lease runs out; None when neither will.

    Negative when a lease has run out. Relies on ix_…_backing_off and ix_…_claimed.
    """
    c = outbox.events.c
    next_retry = (
        select(func.min(c.available_at))
        .where(outbox.is_open(), c.attempt_count > 0, c.claim_token.is_(None), c.available_at > DatabaseNow())
        .scalar_subquery()
    )
    next_lease_end = select(func.min(c.claimed_until)).where(c.claim_token.is_not(None)).scalar_subquery()
    row = connection.execute(select(SecondsUntil(next_retry), SecondsUntil(next_lease_end))).one()
    return min((seconds for seconds in row if seconds is not None), default=None)


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


def _event_columns(outbox: Outbox) -> list[Column[Any]]:
    return [outbox.events.c[it.name] for it in fields(Event)]


def _as_event(row: Row[Any]) -> Event:
    values: tuple[Any, ...] = tuple(row)
    return Event(*values)


@lru_cache(maxsize=16)
def _claim(outbox: Outbox, is_of_one_subject: bool) -> Update:
    events = outbox.events
    c = events.c
    heads_ = _heads(outbox)
    if is_of_one_subject:
        heads_ = heads_.where(c.subject == bindparam("only_subject", type_=Text))
    heads = heads_.cte("heads")
    f = events.alias("follower")
    is_takeable = or_(
        f.c.id == heads.c.id,
        and_(
            heads.c.attempt_count == 0,
            f.c.attempt_count == 0,
            f.c.claim_token.is_(None),
            f.c.available_at <= DatabaseNow(),
            f.c.event_type.in_(bindparam("types", expanding=True)),
        ),
    )
    # 1 up to the first event of the subject that may not be taken, 0 from there on.
    unbroken = func.min(case((is_takeable, 1), else_=0)).over(partition_by=heads.c.id, order_by=f.c.id)
    candidates = (
        select(
            heads.c.id.label("head_id"),
            heads.c.attempt_count.label("head_attempts"),
            f.c.id,
            unbroken.label("unbroken"),
        )
        .join_from(heads, f, and_(f.c.subject == heads.c.subject, f.c.id >= heads.c.id))
        .where(f.c.processed_at.is_(None), f.c.failed_at.is_(None), f.c.id < _end_of_reach(outbox, heads))
        .cte("candidates")
    )
    # A charged event may be one that kills its worker, so it takes nobody with it: it is claimed alone, in its turn.
    oldest = select(heads.c.id, heads.c.attempt_count).order_by(heads.c.id).limit(1).subquery("oldest")
    travels_now = case(
        (oldest.c.attempt_count > 0, candidates.c.head_id == oldest.c.id), else_=candidates.c.head_attempts == 0
    )
    batch = (
        select(candidates.c.id)
        .join_from(candidates, oldest, true())
        .where(candidates.c.unbroken == 1, travels_now)
        .order_by(candidates.c.head_id, candidates.c.id)
        .limit(bindparam("limit", type_=Integer))
        .cte("batch")
    )
    return (
        update(events)
        # The conditions are judged again on rows that changed while this statement waited for them.
        .where(c.id.in_(select(batch.c.id)), outbox.is_open(), c.claim_token.is_(None))
        .values(
            claim_token=bindparam("token", type_=Text),
            claimed_until=DatabaseNow(bindparam("lease", type_=Float)),
        )
        .returning(*_event_columns(outbox))
    )


def _heads(outbox: Outbox) -> Select[tuple[object, ...]]:
    c = outbox.events.c
    earlier = outbox.events.alias("earlier")
    has_earlier = (
        select(earlier.c.id)
        .where(
            earlier.c.subject == c.subject,
            earlier.c.id < c.id,
            earlier.c.processed_at.is_(None),
            earlier.c.failed_at.is_(None),
        )
        .correlate(outbox.events)
        .exists()
    )
    claimed = outbox.events.alias("claimed")
    has_claimed = (
        select(claimed.c.id)
        .where(
            claimed.c.subject == c.subject,
            claimed.c.claim_token.is_not(None),
            claimed.c.processed_at.is_(None),
            claimed.c.failed_at.is_(None),
        )
        .correlate(outbox.events)
        .exists()
    )
    return (
        select(c.id, c.subject, c.attempt_count)
        .where(
            outbox.is_open(),
            c.claim_token.is_(None),
            c.available_at <= DatabaseNow(),
            c.event_type.in_(bindparam("types", expanding=True)),
            ~has_earlier,
            # Only a retry by hand makes an event pending that is older than one in flight.
            or_(c.retried_at.is_(None), ~has_claimed),
        )
        .order_by(c.id)
        .limit(bindparam("limit", type_=Integer))
        .with_for_update(skip_locked=True)
    )


def _end_of_reach(outbox: Outbox, heads: FromClause) -> ColumnElement[int]:
    """The first id of a head's subject that lies beyond a whole batch: a subject's backlog is not read to its end."""
    beyond = outbox.events.alias("beyond")
    first_beyond = (
        select(beyond.c.id)
        .where(
            beyond.c.subject == heads.c.subject,
            beyond.c.id >= heads.c.id,
            beyond.c.processed_at.is_(None),
            beyond.c.failed_at.is_(None),
        )
        .order_by(beyond.c.id)
        .limit(1)
        .offset(bindparam("limit", type_=Integer))
        .correlate(heads)
        .scalar_subquery()
    )
    return func.coalesce(first_beyond, _NO_LIMIT)


@lru_cache(maxsize=16)
def _settle(outbox: Outbox, dialect_name: str) -> Update:
    c = outbox.events.c
    rows = _settlements(dialect_name)
    now = DatabaseNow()
    return (
        update(outbox.events)
        .where(c.id == rows.c.id, c.claim_token == bindparam("token", type_=Text))
        .values(
            claim_token=null(),
            claimed_until=null(),
            processed_at=case((rows.c.state == State.DELIVERED.value, now), else_=null()),
            failed_at=case((rows.c.state == State.FAILED.value, now), else_=null()),
            available_at=case((rows.c.wait_seconds > 0, DatabaseNow(rows.c.wait_seconds)), else_=c.available_at),
            attempt_count=rows.c.attempt_count,
            last_error=rows.c.last_error,
            dry_run=rows.c.dry_run,
        )
        .returning(c.id)
    )


def _settlements(dialect_name: str) -> FromClause:
    """The bound JSON array `rows` of settlements as a table."""
    columns = (
        column("id", BigInteger),
        column("state", Text),
        column("attempt_count", Integer),
        column("last_error", Text),
        column("dry_run", Boolean),
        column("wait_seconds", Float),
    )
    if dialect_name == "sqlite":
        each = func.json_each(bindparam("rows", type_=Text)).table_valued("value")
        return select(*(func.json_extract(each.c.value, f"$.{it.name}").label(it.name) for it in columns)).subquery(
            "settlements"
        )
    return (
        func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
        .table_valued(*columns)
        .render_derived(name="settlements", with_types=True)
    )
