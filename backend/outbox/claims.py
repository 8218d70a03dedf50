"""The statements by which a worker holds events: claim, renew, settle, hand back, take over what was left behind.

All take a connection and leave the commit to its owner, here and in `queries`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any, assert_never

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Float,
    Integer,
    Row,
    Select,
    Text,
    Update,
    bindparam,
    case,
    column,
    func,
    null,
    select,
    true,
    update,
)

from outbox.candidates import Window, candidates, is_one_of
from outbox.clock import DatabaseNow, SecondsUntil
from outbox.model import Event, Outbox, State, as_event, event_columns
from outbox.rows import object_of, rows_of
from outbox.settlement import Settlement

_REACHED = ("size", "last_id", "heads", "last_head_id", "first_left_id")
_SETTLEMENT_COLUMNS = (
    column("id", BigInteger),
    column("state", Text),
    column("attempt_count", Integer),
    column("last_error", Text),
    column("dry_run", Boolean),
    column("wait_seconds", Float),
    column("failure_reason", Text),
)
_settlement_object = object_of(_SETTLEMENT_COLUMNS)


@dataclass(frozen=True, slots=True)
class Look:
    """Where a claim looks for events: in a bounded window of the open ones (see `candidates`).

    `after` is the id after which a look AHEAD begins; `subjects` says so for each subject of a look at FOLLOWERS.
    `floor` is an id below which no event is open, save for those that a person retried. `size` is in events.
    """

    window: Window = Window.AHEAD
    after: int = 0
    subjects: Mapping[str, int] = field(default_factory=dict)
    floor: int = 0
    size: int = 1000


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a look brought, in order. Up to `used_up_to` nothing is left that could be claimed now.

    `is_used_up` says so of the whole window, and `is_end` that the window was the last one.
    """

    events: list[Event]
    used_up_to: int
    is_used_up: bool
    is_end: bool


def claim(
    connection: Connection,
    outbox: Outbox,
    look: Look,
    *,
    types: Sequence[str],
    token: str,
    lease: timedelta,
    limit: int,
) -> Claimed:
    """Claim up to `limit` due events of the window for `token`, in the order of their subjects' first events.

    Takes subjects' heads (no earlier event of the subject is open) that no one else is claiming, and with each head
    the run of due events behind it. A charged event is claimed alone.
    """
    parameters = {
        "types": list(types),
        "token": token,
        "lease": lease.total_seconds(),
        "limit": limit,
        "floor": look.floor,
        **_window_parameters(look),
    }
    statement = _claim(outbox, look.window, connection.dialect.name)
    rows = connection.execute(statement, parameters).all()
    reached = rows[0]
    if connection.dialect.name == "sqlite":
        ids = [row.id for row in rows if row.id is not None]
        rows = connection.execute(_take(outbox), parameters | {"ids": json.dumps(ids)}).all() if ids else []
        events = [as_event(row) for row in rows]
    else:
        events = [as_event(row[len(_REACHED) :]) for row in rows if row.id is not None]
    events.sort(key=lambda event: event.id)
    return _claimed(events, reached, look, limit)


def settle(
    connection: Connection, outbox: Outbox, token: str, settlements: Sequence[Settlement]
) -> dict[int, timedelta]:
    """Settle those of the events that `token` still holds, and return by id how long ago each was enqueued.

    Others are left as they are.
    """
    if not settlements:
        return {}
    rows = json.dumps([_settlement_object(it) for it in settlements])
    settled = connection.execute(_settle(outbox, connection.dialect.name), {"rows": rows, "token": token})
    return {it.id: timedelta(seconds=max(0.0, -it.seconds_until_enqueued)) for it in settled}


def renew(connection: Connection, outbox: Outbox, claims: Mapping[str, Iterable[int]], lease: timedelta) -> set[str]:
    """Extend the leases of claims, given as their events' ids by token; return the tokens that are still held."""
    c = outbox.events.c
    ids = [id_ for ids in claims.values() for id_ in ids]
    # What is being settled at this moment needs no lease, and to wait for it could end in a deadlock.
    held = (
        select(c.id)
        .where(c.id.in_(ids), func.coalesce(c.claim_token, "").in_(list(claims)))
        .with_for_update(skip_locked=True)
        .cte("held")
    )
    statement = (
        update(outbox.events)
        .where(is_one_of(c.id, select(held.c.id), connection.dialect.name))
        .values(claimed_until=DatabaseNow(lease.total_seconds()))
        .returning(c.claim_token)
    )
    return {token for token in connection.execute(statement).scalars() if token}


def take_expired(
    connection: Connection, outbox: Outbox, *, token: str, lease: timedelta, limit: int, since: timedelta
) -> list[Event]:
    """Take over events whose lease ran out within the time `since`, so that `token` can charge them; in order.

    What ran out before was taken before, and a look there would pass by every claim there ever was while a long
    transaction keeps PostgreSQL from forgetting them. Relies on ix_…_claimed.
    """
    c = outbox.events.c
    expired = (
        select(c.id)
        .where(
            c.claim_token.is_not(None),
            c.claimed_until < DatabaseNow(),
            c.claimed_until >= DatabaseNow(-since.total_seconds()),
        )
        .order_by(c.claimed_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("expired")
    )
    statement = (
        update(outbox.events)
        .where(is_one_of(c.id, select(expired.c.id), connection.dialect.name))
        .values(claim_token=token, claimed_until=DatabaseNow(lease.total_seconds()))
        .returning(*event_columns(outbox))
    )
    return sorted((as_event(row) for row in connection.execute(statement)), key=lambda event: event.id)


def hand_back(connection: Connection, outbox: Outbox, token: str) -> int:
    """Return what `token` still holds to pending, uncharged; the number of events."""
    c = outbox.events.c
    statement = update(outbox.events).where(c.claim_token == token).values(claim_token=null(), claimed_until=null())
    return connection.execute(statement).rowcount


def _window_parameters(look: Look) -> dict[str, object]:
    match look.window:
        case Window.AHEAD:
            return {"after": look.after, "size": look.size}
        case Window.FOLLOWERS:
            rows = [{"subject": subject, "after": after} for subject, after in look.subjects.items()]
            return {"subjects": json.dumps(rows), "share": max(1, look.size // len(rows))}
        case Window.AGAIN:
            return {"size": look.size}
        case _:
            assert_never(look.window)


def _claimed(events: list[Event], reached: Row[Any], look: Look, limit: int) -> Claimed:
    # Of more heads than the limit, the query has not seen those behind.
    first_unseen = reached.last_head_id + 1 if reached.heads >= limit else None
    left = [id_ for id_ in (reached.first_left_id, first_unseen) if id_ is not None]
    last_id = look.after if reached.last_id is None else reached.last_id
    return Claimed(
        events,
        used_up_to=min([last_id, *(id_ - 1 for id_ in left)]),
        is_used_up=not left,
        is_end=not left and reached.size < look.size,
    )


@lru_cache(maxsize=32)
def _claim(outbox: Outbox, window: Window, dialect_name: str) -> Select[Any]:
    """PostgreSQL finds and takes in one statement; SQLite finds here, and takes with `_take` as the only writer."""
    batch, reached = candidates(outbox, window, dialect_name)
    if dialect_name == "sqlite":
        taken = batch
    else:
        ids = is_one_of(outbox.events.c.id, select(batch.c.id), dialect_name)
        taken = _taking(outbox, ids).cte("taken")
    return select(*(reached.c[name] for name in _REACHED), *taken.c).select_from(reached.outerjoin(taken, true()))


@lru_cache(maxsize=16)
def _take(outbox: Outbox) -> Update:
    ids = func.json_each(bindparam("ids", type_=Text)).table_valued("value")
    return _taking(outbox, outbox.events.c.id.in_(select(ids.c.value)))


def _taking(outbox: Outbox, is_in_batch: ColumnElement[bool]) -> Update:
    c = outbox.events.c
    return (
        update(outbox.events)
        # The conditions are judged again on rows that changed while this statement waited for them.
        .where(is_in_batch, outbox.is_open(), c.claim_token.is_(None))
        .values(
            claim_token=bindparam("token", type_=Text),
            claimed_until=DatabaseNow(bindparam("lease", type_=Float)),
        )
        .returning(*event_columns(outbox))
    )


@lru_cache(maxsize=16)
def _settle(outbox: Outbox, dialect_name: str) -> Update:
    c = outbox.events.c
    rows = rows_of("rows", _SETTLEMENT_COLUMNS, dialect_name)
    now = DatabaseNow()
    return (
        update(outbox.events)
        # Not by ix_…_claimed, whose statistics may say that nothing is claimed.
        .where(c.id == rows.c.id, func.coalesce(c.claim_token, "") == bindparam("token", type_=Text))
        .values(
            claim_token=null(),
            claimed_until=null(),
            processed_at=case((rows.c.state == State.DELIVERED.value, now), else_=null()),
            failed_at=case((rows.c.state == State.FAILED.value, now), else_=null()),
            available_at=case((rows.c.wait_seconds > 0, DatabaseNow(rows.c.wait_seconds)), else_=c.available_at),
            attempt_count=rows.c.attempt_count,
            last_error=rows.c.last_error,
            failure_reason=rows.c.failure_reason,
            dry_run=rows.c.dry_run,
        )
        .returning(c.id, SecondsUntil(c.created_at).label("seconds_until_enqueued"))
    )
