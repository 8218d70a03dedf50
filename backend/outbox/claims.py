"""The statements by which a worker holds events: claim, renew, settle, hand back, take over what was left behind.

All take a connection and leave the commit to its owner, here and in `queries`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import lru_cache

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Integer,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    case,
    cast,
    column,
    func,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSON

from outbox.clock import DatabaseNow
from outbox.model import Event, Outbox, State, as_event, event_columns
from outbox.settlement import Settlement

_NO_LIMIT = 2**62


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
    return sorted((as_event(row) for row in rows), key=lambda event: event.id)


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
        .returning(*event_columns(outbox))
    )
    return [as_event(row) for row in connection.execute(statement)]


def hand_back(connection: Connection, outbox: Outbox, token: str) -> int:
    """Return what `token` still holds to pending, uncharged; the number of events."""
    c = outbox.events.c
    statement = update(outbox.events).where(c.claim_token == token).values(claim_token=null(), claimed_until=null())
    return connection.execute(statement).rowcount


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
        .where(outbox.is_open(f), f.c.id < _end_of_reach(outbox, heads))
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
        .returning(*event_columns(outbox))
    )


def _heads(outbox: Outbox) -> Select[tuple[object, ...]]:
    c = outbox.events.c
    earlier = outbox.events.alias("earlier")
    has_earlier = (
        select(earlier.c.id)
        .where(
            earlier.c.subject == c.subject,
            earlier.c.id < c.id,
            outbox.is_open(earlier),
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
            outbox.is_open(claimed),
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
            outbox.is_open(beyond),
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
