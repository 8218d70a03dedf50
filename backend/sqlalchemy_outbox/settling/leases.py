"""The statements by which a claim is kept and ends: renew, settle, hand back, and what becomes of a lease that ran out.

A lease is a row of its own, one for each claim; the events carry its token. Whoever wants both locks the lease first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Boolean,
    ColumnElement,
    Connection,
    Delete,
    Float,
    FromClause,
    Integer,
    Select,
    Text,
    Update,
    bindparam,
    case,
    column,
    delete,
    func,
    null,
    select,
    true,
    type_coerce,
    union,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil, not_ahead
from sqlalchemy_outbox.database.json_rows import as_parameter, bound_ids, rows_of
from sqlalchemy_outbox.database.plan_hints import is_one_of
from sqlalchemy_outbox.model import Event, Outbox, State, as_event, event_columns
from sqlalchemy_outbox.settling import deliveries, follow_up
from sqlalchemy_outbox.settling.deliveries import Delivery
from sqlalchemy_outbox.settling.settlement import NOTHING_ENDED, Ended, Settlement

_TOKEN: BindParameter[str] = bindparam("token", type_=Text)
# What events leave their claim with; most do so with the same as their neighbours.
_LEFT_WITH = (
    column("state", Text),
    column("attempt_count", Integer),
    column("last_error", Text),
    column("dry_run", Boolean),
    column("wait_seconds", Float),
    column("failure_reason", Text),
    column("is_in_doubt", Boolean),
    column("waits_for", Text),
)
_LEFT_WITH_NAMES = tuple(left_with.name for left_with in _LEFT_WITH)
_left_with = attrgetter(*_LEFT_WITH_NAMES)
# Where subjects were delivered to, by the event that says so.
_OF_A_SUBJECT = ["subject", "record_id", "key_property", "first_delivered_at", "last_delivered_at"]
_PLACES = (column("id", BigInteger), column("record_id", Text), column("key_property", Text))


def settle(
    connection: Connection,
    outbox: Outbox,
    token: str,
    settlements: Sequence[Settlement],
    noted: Sequence[Delivery] = (),
) -> Ended:
    """Settle the events of a claim, those that `token` still holds, and end its lease. Others are left as they are.

    Deliveries that were noted are kept in any case. It is one statement on PostgreSQL, and more where a settlement
    leaves something to be done.
    """
    groups = _grouped(settlements)
    places = [{"id": settled.id, **settled.place._asdict()} for settled in settlements if settled.place is not None]
    if connection.dialect.name == "sqlite":
        deliveries.write(connection, outbox, noted)
        ended = _settle_on_sqlite(connection, outbox, token, groups)
        held = [place for place in places if place["id"] in ended.ids]
        if held:
            connection.execute(_keep_places(outbox), {"places": as_parameter(held)})
    else:
        parameters = {"token": token, "groups": as_parameter(groups)}
        if noted:
            parameters |= deliveries.parameters_of(connection, outbox, noted)
        if places:
            parameters["places"] = as_parameter(places)
        statement = _end_lease_and_settle(outbox, is_noting=bool(noted), is_placing=bool(places))
        row = connection.execute(statement, parameters).one_or_none()
        ended = NOTHING_ENDED if row is None else Ended(frozenset(row.ids or ()), row.at)
    left = [settlement.then for settlement in settlements if settlement.then and settlement.id in ended.ids]
    follow_up.store(connection, outbox, chain.from_iterable(left))
    return ended


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

    What ran out before was taken before, and a scan from there would pass by every lease there ever was while a long
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


def hand_back(connection: Connection, outbox: Outbox, token: str, *, is_in_doubt: bool = False) -> int:
    """End a lease; the events that it still holds are pending again, uncharged. Returns their number.

    They are in doubt if a request that carried them may be under way.
    """
    c = outbox.events.c
    ending = _end_lease(outbox).returning(outbox.leases.c.event_ids)
    ids = connection.execute(ending, {"token": token}).scalar_one_or_none()
    if ids is None:
        return 0
    doubt = {"in_doubt_at": DatabaseNow()} if is_in_doubt else {}
    held = update(outbox.events).where(c.id.in_(ids), c.claim_token == token)
    return connection.execute(held.values(claim_token=null(), **doubt)).rowcount


def free_leaseless(connection: Connection, outbox: Outbox, limit: int) -> int:
    """Return events to pending whose lease is gone, of the first `limit` in line and of those that come again.

    Returns their number. There are none, unless one of the two tables was restored or emptied without the other. Relies
    on ix_…_open and ix_…_backing_off.
    """
    c, leases = outbox.events.c, outbox.leases.c
    in_line = select(c.id, c.claim_token).where(outbox.is_in_line()).order_by(c.id).limit(limit)
    again = select(c.id, c.claim_token).where(outbox.is_pushed_back()).order_by(c.available_at).limit(limit)
    # SQLite takes no ORDER BY in a part of a union, but in a query around it.
    first = union(select(in_line.subquery()), select(again.subquery())).subquery("first")
    has_lease = select(leases.token).where(leases.token == first.c.claim_token).exists()
    leaseless = select(first).where(first.c.claim_token.is_not(None), ~has_lease).cte("leaseless")
    statement = (
        update(outbox.events)
        # Only what is still held by that token: one who has claimed it since has a lease.
        .where(c.id == leaseless.c.id, c.claim_token == leaseless.c.claim_token)
        .values(claim_token=null())
        .returning(c.id)
    )
    return len(connection.execute(statement).all())


def seconds_to_lease_end(connection: Connection, outbox: Outbox, since: timedelta) -> float | None:
    """Seconds until the first lease runs out, or since it did if that was within the time `since`; None without any.

    Relies on ix_…_leases_until.
    """
    until = outbox.leases.c.until
    first = select(func.min(until)).where(until >= DatabaseNow(-since.total_seconds())).scalar_subquery()
    seconds: float | None = connection.execute(select(SecondsUntil(first))).scalar_one()
    return seconds


def _settle_on_sqlite(
    connection: Connection, outbox: Outbox, token: str, groups: Sequence[Mapping[str, object]]
) -> Ended:
    at = connection.execute(_end_lease(outbox).returning(DatabaseNow()), {"token": token}).scalar_one_or_none()
    if at is None:
        return NOTHING_ENDED
    ids: set[int] = set()
    for group in groups:
        parameters = {f"new_{name}": group[name] for name in _LEFT_WITH_NAMES}
        parameters |= {"ids": json.dumps(group["ids"]), "token": token}
        ids.update(connection.execute(_settle_group(outbox), parameters).scalars())
    return Ended(frozenset(ids), at)


def _grouped(settlements: Sequence[Settlement]) -> list[dict[str, object]]:
    """The ids of those that leave with the same, together: a number for each event instead of an object."""
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for settlement in settlements:
        groups[_left_with(settlement)].append(settlement.id)
    return [{"ids": ids, **dict(zip(_LEFT_WITH_NAMES, values, strict=True))} for values, ids in groups.items()]


@lru_cache(maxsize=16)
def _end_lease(outbox: Outbox) -> Delete:
    return delete(outbox.leases).where(outbox.leases.c.token == _TOKEN)


@lru_cache(maxsize=16)
def _end_lease_and_settle(outbox: Outbox, *, is_noting: bool, is_placing: bool) -> Select[Any]:
    """In one statement, on PostgreSQL; no row when the lease was lost.

    The lease is locked before its events, as it is by whoever takes it when it has expired.
    """
    lease = _end_lease(outbox).returning(outbox.leases.c.token, DatabaseNow().label("at")).cte("lease")
    groups = rows_of("groups", (column("ids", ARRAY(BigInteger)), *_LEFT_WITH), "postgresql")
    rows = select(func.unnest(groups.c.ids).label("id"), *(groups.c[name] for name in _LEFT_WITH_NAMES)).cte("rows")
    # First by the ids alone: statistics from when the table was small make a join read all of it.
    is_one = is_one_of(outbox.events.c.id, select(rows.c.id).correlate(None), "postgresql")
    settling = _settling(outbox, lease.c.token, {name: rows.c[name] for name in _LEFT_WITH_NAMES})
    settling = settling.where(is_one, outbox.events.c.id == rows.c.id)
    if is_placing:
        settling = settling.returning(type_coerce(outbox.events.c.subject, Text).label("subject"))
    settled = settling.cte("settled")
    ids = select(func.array_agg(settled.c.id)).scalar_subquery()
    settle_all = select(lease.c.at, ids.label("ids"))
    if is_placing:
        settle_all = settle_all.add_cte(_placing(outbox, settled, "postgresql").cte("placed"))
    return deliveries.written_beside(settle_all, outbox) if is_noting else settle_all


@lru_cache(maxsize=16)
def _keep_places(outbox: Outbox) -> Any:
    return _placing(outbox, outbox.events, "sqlite")


def _placing(outbox: Outbox, events: FromClause, dialect_name: str) -> Any:
    """Keep where the subjects of these events were delivered to; binds `places`, one of each subject."""
    places, now = rows_of("places", _PLACES, dialect_name), DatabaseNow()
    found = (
        select(events.c.subject, places.c.record_id, places.c.key_property, now, now)
        .join_from(places, events, events.c.id == places.c.id)
        # Without a condition SQLite would take ON CONFLICT for the join's.
        .where(true())
        .order_by(events.c.subject)
    )
    inserting = postgresql.insert if dialect_name == "postgresql" else sqlite.insert
    statement = inserting(outbox.subjects).from_select(_OF_A_SUBJECT, found)
    newest = ("record_id", "key_property", "last_delivered_at")
    return statement.on_conflict_do_update(
        index_elements=["subject"], set_={name: statement.excluded[name] for name in newest}
    )


@lru_cache(maxsize=16)
def _settle_group(outbox: Outbox) -> Update:
    left_with = {given.name: bindparam(f"new_{given.name}", type_=given.type) for given in _LEFT_WITH}
    settling = _settling(outbox, _TOKEN, left_with)
    return settling.where(outbox.events.c.id.in_(bound_ids()))


def _settling(outbox: Outbox, token: ColumnElement[str], left_with: Mapping[str, ColumnElement[Any]]) -> Update:
    c = outbox.events.c
    state, wait_seconds, is_in_doubt = (left_with[name] for name in ("state", "wait_seconds", "is_in_doubt"))
    # What was set apart stays marked while it is open: events of its subject look for it by the mark.
    waits_for = func.coalesce(left_with["waits_for"], c.waits_for)
    now = DatabaseNow()
    return (
        update(outbox.events)
        .where(c.claim_token == token)
        .values(
            claim_token=null(),
            processed_at=case((state == State.DELIVERED.value, now), else_=null()),
            failed_at=case((state == State.FAILED.value, now), else_=null()),
            available_at=case((wait_seconds > 0, DatabaseNow(wait_seconds)), else_=c.available_at),
            # Pushed back is what is due later than it was enqueued, so that may not lie ahead.
            created_at=case((wait_seconds > 0, not_ahead(c.created_at)), else_=c.created_at),
            attempt_count=left_with["attempt_count"],
            last_error=left_with["last_error"],
            failure_reason=left_with["failure_reason"],
            dry_run=left_with["dry_run"],
            in_doubt_at=case((state == State.DELIVERED.value, null()), (is_in_doubt, now), else_=c.in_doubt_at),
            waits_for=case((state == State.PENDING.value, waits_for), else_=null()),
        )
        .returning(c.id)
    )
