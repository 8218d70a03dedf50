"""The statements by which a worker holds events: claim, renew, settle, hand back, take over what was left behind.

All take a connection and leave the commit to its owner, here and in `queries`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, assert_never

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Boolean,
    ColumnElement,
    Connection,
    Delete,
    Float,
    Insert,
    Integer,
    Row,
    Select,
    Text,
    Update,
    bindparam,
    case,
    column,
    delete,
    func,
    insert,
    literal_column,
    null,
    select,
    true,
    update,
)

from outbox.candidates import Window, candidates, is_one_of
from outbox.clock import DatabaseNow
from outbox.model import Event, Outbox, State, as_event, event_columns
from outbox.rows import rows_of
from outbox.settlement import NOTHING_ENDED, Ended, Settlement

_LEASE_COLUMNS = ("token", "until", "event_ids")
_TOKEN: BindParameter[str] = bindparam("token", type_=Text)
_LEASE_END = DatabaseNow(bindparam("lease", type_=Float))
_REACHED = ("size", "last_id", "heads", "last_head_id", "first_left_id")
# What events leave their claim with; most do so with the same as their neighbours.
_LEFT_WITH = (
    column("state", Text),
    column("attempt_count", Integer),
    column("last_error", Text),
    column("dry_run", Boolean),
    column("wait_seconds", Float),
    column("failure_reason", Text),
)
_left_with = attrgetter(*(it.name for it in _LEFT_WITH))


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
        events = _take_on_sqlite(connection, outbox, parameters | {"ids": json.dumps(ids)}) if ids else []
    else:
        its_id = len(_REACHED)
        events = [as_event(row[its_id:]) for row in rows if row[its_id] is not None]
    events.sort(key=lambda event: event.id)
    return _claimed(events, reached, look, limit)


def settle(connection: Connection, outbox: Outbox, token: str, settlements: Sequence[Settlement]) -> Ended:
    """Settle the events of a claim, those that `token` still holds, and end its lease. Others are left as they are."""
    groups = _grouped(settlements)
    if connection.dialect.name == "sqlite":
        return _settle_on_sqlite(connection, outbox, token, groups)
    parameters = {"token": token, "groups": json.dumps(groups)}
    row = connection.execute(_end_lease_and_settle(outbox), parameters).one_or_none()
    return NOTHING_ENDED if row is None else Ended(frozenset(row.ids or ()), row.at)


def renew(connection: Connection, outbox: Outbox, tokens: Iterable[str], lease: timedelta) -> set[str]:
    """Extend these leases, and return the tokens of those that are still held."""
    leases = outbox.leases.c
    # One that is being settled at this moment is needed no more, and the others do not wait for it.
    held = select(leases.token).where(leases.token.in_(tokens)).with_for_update(skip_locked=True).cte("held")
    statement = (
        update(outbox.leases)
        .where(leases.token.in_(select(held.c.token)))
        .values(until=DatabaseNow(lease.total_seconds()))
        .returning(leases.token)
    )
    return set(connection.execute(statement).scalars())


def take_expired(connection: Connection, outbox: Outbox, *, limit: int, since: timedelta) -> dict[str, list[Event]]:
    """Lock up to `limit` leases that ran out within the time `since`; the events that each token holds, in order.

    What ran out before was taken before, and a look there would pass by every lease there ever was while a long
    transaction keeps PostgreSQL from forgetting them. Relies on ix_…_leases_until.
    """
    c, leases = outbox.events.c, outbox.leases.c
    expired = (
        select(leases.token, leases.event_ids)
        .where(leases.until < DatabaseNow(), leases.until >= DatabaseNow(-since.total_seconds()))
        .order_by(leases.until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    held = {}
    for token, ids in connection.execute(expired).all():
        statement = select(*event_columns(outbox)).where(c.id.in_(ids), c.claim_token == token).order_by(c.id)
        held[token] = [as_event(row) for row in connection.execute(statement)]
    return held


def hand_back(connection: Connection, outbox: Outbox, token: str) -> int:
    """End a lease; the events that it still holds are pending again, uncharged. Returns their number."""
    c = outbox.events.c
    ending = _end_lease(outbox).returning(outbox.leases.c.event_ids)
    ids = connection.execute(ending, {"token": token}).scalar_one_or_none()
    if ids is None:
        return 0
    statement = update(outbox.events).where(c.id.in_(ids), c.claim_token == token).values(claim_token=null())
    return connection.execute(statement).rowcount


def _take_on_sqlite(connection: Connection, outbox: Outbox, parameters: Mapping[str, object]) -> list[Event]:
    connection.execute(_begin_lease(outbox), parameters)
    return [as_event(row) for row in connection.execute(_take(outbox), parameters)]


def _settle_on_sqlite(
    connection: Connection, outbox: Outbox, token: str, groups: Sequence[Mapping[str, object]]
) -> Ended:
    at = connection.execute(_end_lease(outbox).returning(DatabaseNow()), {"token": token}).scalar_one_or_none()
    if at is None:
        return NOTHING_ENDED
    ids: set[int] = set()
    for group in groups:
        parameters = {f"new_{it.name}": group[it.name] for it in _LEFT_WITH}
        parameters |= {"ids": json.dumps(group["ids"]), "token": token}
        ids.update(connection.execute(_settle_group(outbox), parameters).scalars())
    return Ended(frozenset(ids), at)


def _grouped(settlements: Sequence[Settlement]) -> list[dict[str, object]]:
    """The ids of those that leave with the same, together: a number for each event instead of an object."""
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for settlement in settlements:
        groups[_left_with(settlement)].append(settlement.id)
    names = [it.name for it in _LEFT_WITH]
    return [{"ids": ids, **dict(zip(names, values, strict=True))} for values, ids in groups.items()]


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
    """PostgreSQL finds and takes in one statement; SQLite finds here, and takes as the only writer."""
    batch, reached = candidates(outbox, window, dialect_name)
    if dialect_name == "sqlite":
        taken = batch
    else:
        ids = is_one_of(outbox.events.c.id, select(batch.c.id), dialect_name)
        taken = _taking(outbox, ids).cte("taken")
    statement = reached.outerjoin(taken, true()).add_columns(*taken.c)
    if dialect_name == "sqlite":
        return statement
    its_ids = select(_TOKEN, _LEASE_END, func.json_agg(taken.c.id)).having(func.count() > literal_column("0"))
    return statement.add_cte(insert(outbox.leases).from_select(_LEASE_COLUMNS, its_ids).cte("lease"))


@lru_cache(maxsize=16)
def _take(outbox: Outbox) -> Update:
    return _taking(outbox, _has_bound_id(outbox))


@lru_cache(maxsize=16)
def _begin_lease(outbox: Outbox) -> Insert:
    return insert(outbox.leases).from_select(_LEASE_COLUMNS, select(_TOKEN, _LEASE_END, bindparam("ids", type_=Text)))


def _taking(outbox: Outbox, is_in_batch: ColumnElement[bool]) -> Update:
    return (
        update(outbox.events)
        # The conditions are judged again on rows that changed while this statement waited for them.
        .where(is_in_batch, outbox.is_open(), outbox.events.c.claim_token.is_(None))
        .values(claim_token=_TOKEN)
        # Without the table's name, for a short statement.
        .returning(*(column(it.name, it.type) for it in event_columns(outbox)))
    )


@lru_cache(maxsize=16)
def _end_lease(outbox: Outbox) -> Delete:
    return delete(outbox.leases).where(outbox.leases.c.token == _TOKEN)


@lru_cache(maxsize=16)
def _end_lease_and_settle(outbox: Outbox) -> Select[Any]:
    """In one statement, on PostgreSQL; no row when the lease was lost.

    The lease is locked before its events, as it is by whoever takes it when it has expired.
    """
    lease = _end_lease(outbox).returning(outbox.leases.c.token, DatabaseNow().label("at")).cte("lease")
    groups = rows_of("groups", (column("ids", ARRAY(BigInteger)), *_LEFT_WITH), "postgresql")
    rows = select(func.unnest(groups.c.ids).label("id"), *(groups.c[it.name] for it in _LEFT_WITH)).cte("rows")
    # First by the ids alone: statistics from when the table was small make a join read all of it.
    is_one = is_one_of(outbox.events.c.id, select(rows.c.id).correlate(None), "postgresql")
    settling = _settling(outbox, lease.c.token, {it.name: rows.c[it.name] for it in _LEFT_WITH})
    settled = settling.where(is_one, outbox.events.c.id == rows.c.id).cte("settled")
    ids = select(func.array_agg(settled.c.id)).scalar_subquery()
    return select(lease.c.at, ids.label("ids"))


@lru_cache(maxsize=16)
def _settle_group(outbox: Outbox) -> Update:
    settling = _settling(outbox, _TOKEN, {it.name: bindparam(f"new_{it.name}", type_=it.type) for it in _LEFT_WITH})
    return settling.where(_has_bound_id(outbox))


def _settling(outbox: Outbox, token: ColumnElement[str], left_with: Mapping[str, ColumnElement[Any]]) -> Update:
    c = outbox.events.c
    state, wait_seconds, now = left_with["state"], left_with["wait_seconds"], DatabaseNow()
    return (
        update(outbox.events)
        .where(c.claim_token == token)
        .values(
            claim_token=null(),
            processed_at=case((state == State.DELIVERED.value, now), else_=null()),
            failed_at=case((state == State.FAILED.value, now), else_=null()),
            available_at=case((wait_seconds > 0, DatabaseNow(wait_seconds)), else_=c.available_at),
            attempt_count=left_with["attempt_count"],
            last_error=left_with["last_error"],
            failure_reason=left_with["failure_reason"],
            dry_run=left_with["dry_run"],
        )
        .returning(c.id)
    )


def _has_bound_id(outbox: Outbox) -> ColumnElement[bool]:
    """Whether an event is one of those whose `ids` are bound, as a JSON array; on SQLite."""
    ids = func.json_each(bindparam("ids", type_=Text)).table_valued("value")
    return outbox.events.c.id.in_(select(ids.c.value))
