"""The statement by which a worker gets events: it finds them, marks them with a token and begins a lease.

It takes a connection and leaves the commit to its owner, as all statements of the outbox do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, assert_never, cast
from uuid import UUID

from sqlalchemy import (
    Alias,
    BindParameter,
    ColumnElement,
    Connection,
    Float,
    Insert,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    column,
    func,
    insert,
    literal_column,
    select,
    true,
    update,
)

from sqlalchemy_outbox.claiming.candidates import Reached, WindowKind, candidates
from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.database.driver import fetch_all, server_statement
from sqlalchemy_outbox.database.json_rows import bound_ids
from sqlalchemy_outbox.database.plan_hints import EXPENSIVE, is_one_of
from sqlalchemy_outbox.model import Event, Outbox, as_event, event_columns

_LEASE_COLUMNS = ("token", "until", "event_ids")
_TOKEN: BindParameter[str] = bindparam("token", type_=Text)
_REACHED = len(Reached._fields)
_ID = attrgetter("id")
# The most bytes of events that are decoded as one array: that takes two thirds of the time, and a copy of them.
_READ_TOGETHER_BYTES_MAX = 256 * 1024
_INSTANTS_OF_FEW = ("retried_at", "in_doubt_at")
_LEASE_END = DatabaseNow(bindparam("lease", type_=Float))


@dataclass(frozen=True, slots=True)
class Window:
    """The open events among which a claim chooses (see `candidates`).

    `after` is the id after which a window AHEAD begins; `subjects` has one for each subject of a window of FOLLOWERS.
    Below `first_open_id` no event is open, save for those that a person retried and those that were set apart.
    `size` is in events.
    """

    kind: WindowKind = WindowKind.AHEAD
    after: int = 0
    subjects: Mapping[str, int] = field(default_factory=dict)
    first_open_id: int = 0
    size: int = 1000


@dataclass(frozen=True, slots=True)
class Claimed:
    """The events that were claimed, in order. Up to the id `used_up_to` nothing is left that could be claimed now.

    `is_used_up`: nothing is left in the whole window. `is_end`: no open event lies behind the window.
    `last_mark`: the last id of `erasures` that the claim saw.
    """

    events: list[Event]
    used_up_to: int
    is_used_up: bool
    is_end: bool
    last_mark: int


def claim(
    connection: Connection,
    outbox: Outbox,
    window: Window,
    *,
    types: Sequence[str],
    token: str,
    lease: timedelta,
    limit: int,
    budget: timedelta,
) -> Claimed:
    """Claim up to `limit` due events of the window for `token`, in the order of their subjects' first events.

    Takes subjects' heads (no earlier event of the subject is open) that no one else is claiming, and with each head
    the run of due events behind it. A charged head is claimed alone, or, after its first charge, with its run if that
    is in doubt; never with another subject. A statement that has found its events only after `budget` takes
    nothing: it has waited for a locked table, say.
    """
    size, bound = _window_parameters(window)
    parameters = {
        "types": list(types),
        "token": token,
        "lease": lease.total_seconds(),
        "first_open_id": window.first_open_id,
        "budget": budget.total_seconds(),
        "expensive": EXPENSIVE,
        **bound,
    }
    statement = _claim(outbox, window.kind, size, limit, connection.dialect.name)
    rows = _fetch_all(connection, statement, parameters)
    reached = Reached._make(rows[0][:_REACHED])
    # The columns behind `Reached`; NULLs where no event was claimed.
    found = [row[_REACHED:] for row in rows if row[_REACHED] is not None]
    if connection.dialect.name == "sqlite":
        ids = json.dumps([id_ for (id_,) in found])
        events = _take_on_sqlite(connection, outbox, parameters | {"ids": ids}) if found else []
    else:
        events = _decoded([event for (event,) in found])
    events.sort(key=_ID)
    return _claimed(events, reached, window, limit)


def _fetch_all(
    connection: Connection, statement: Select[Any], parameters: Mapping[str, object]
) -> Sequence[Sequence[Any]]:
    if connection.dialect.driver == "psycopg":
        return fetch_all(connection, server_statement(connection, statement), parameters)
    return connection.execute(statement, parameters).all()


def _decoded(events: Sequence[bytes | memoryview]) -> list[Event]:
    """Events from JSON in UTF-8 and ISO 8601, whatever encoding and DateStyle the session has.

    psycopg2 gives bytes as a memoryview.
    """
    if sum(map(len, events)) > _READ_TOGETHER_BYTES_MAX:
        return [_event(json.loads(bytes(event))) for event in events]
    return [_event(values) for values in json.loads(b"[%b]" % b",".join(events))]


def _event(values: dict[str, Any]) -> Event:
    values["event_id"] = UUID(values["event_id"])
    values["created_at"] = datetime.fromisoformat(values["created_at"]).astimezone(UTC)
    for name in _INSTANTS_OF_FEW:
        if (instant := values[name]) is not None:
            values[name] = datetime.fromisoformat(instant).astimezone(UTC)
    # In the order in which the statement returns the columns.
    return as_event(tuple(values.values()))


def _take_on_sqlite(connection: Connection, outbox: Outbox, parameters: Mapping[str, object]) -> list[Event]:
    connection.execute(_begin_lease(outbox), parameters)
    return [as_event(row) for row in connection.execute(_take(outbox), parameters)]


def _window_parameters(window: Window) -> tuple[int, dict[str, object]]:
    """The window's size in events, and the parameters of its kind."""
    match window.kind:
        case WindowKind.AHEAD:
            return window.size, {"after": window.after}
        case WindowKind.FOLLOWERS:
            rows = [{"subject": subject, "after": after} for subject, after in window.subjects.items()]
            return _share(window.size, len(rows)), {"subjects": json.dumps(rows)}
        case _:
            assert_never(window.kind)


def _share(size: int, subjects: int) -> int:
    """Each subject's share of the window; a power of two, since each size makes another statement."""
    share = max(1, size // subjects)
    return 1 << (share.bit_length() - 1)


def _claimed(events: list[Event], reached: Reached, window: Window, limit: int) -> Claimed:
    # The query stops at the limit: heads behind the last one it has not seen.
    first_unseen = None
    if reached.last_head_id is not None and reached.heads >= limit:
        first_unseen = reached.last_head_id + 1
    left = [id_ for id_ in (reached.first_left_id, first_unseen) if id_ is not None]
    last_id = window.after if reached.last_id is None else reached.last_id
    return Claimed(
        events,
        used_up_to=min([last_id, *(id_ - 1 for id_ in left)]),
        is_used_up=not left,
        is_end=not left and reached.events < window.size,
        last_mark=reached.last_mark or 0,
    )


@lru_cache(maxsize=256)
def _claim(outbox: Outbox, kind: WindowKind, size: int, limit: int, dialect_name: str) -> Select[Any]:
    """PostgreSQL finds and takes in one statement; SQLite finds here, and takes as the only writer."""
    batch, reached = candidates(outbox, kind, dialect_name, size, limit)
    if dialect_name == "sqlite":
        taken = batch
    else:
        events = cast("Alias", outbox.events.alias("event"))
        ids = is_one_of(events.c.id, select(batch.c.id), dialect_name)
        taken = _taking(outbox, events, ids).cte("taken")
    statement = reached.outerjoin(taken, true())
    if dialect_name == "sqlite":
        return statement.add_columns(*taken.c)
    its_ids = select(_TOKEN.label("token"), _LEASE_END.label("until"), func.json_agg(taken.c.id).label("event_ids"))
    lease = insert(outbox.leases).from_select(_LEASE_COLUMNS, its_ids.having(func.count() > literal_column("0")))
    encoded = func.convert_to(func.to_json(taken.table_valued()).cast(Text), literal_column("'UTF8'"))
    return statement.add_columns(encoded).add_cte(lease.cte("lease"))


@lru_cache(maxsize=16)
def _take(outbox: Outbox) -> Update:
    return _taking(outbox, outbox.events, outbox.events.c.id.in_(bound_ids()))


@lru_cache(maxsize=16)
def _begin_lease(outbox: Outbox) -> Insert:
    return insert(outbox.leases).from_select(_LEASE_COLUMNS, select(_TOKEN, _LEASE_END, bindparam("ids", type_=Text)))


def _taking(outbox: Outbox, events: Table | Alias, is_in_batch: ColumnElement[bool]) -> Update:
    return (
        update(events)
        # The conditions are judged again on rows that changed while this statement waited for them.
        .where(is_in_batch, outbox.is_open(events), events.c.claim_token.is_(None))
        .values(claim_token=_TOKEN)
        # Without the table's name, for a short statement.
        .returning(*(column(of_event.name, of_event.type) for of_event in event_columns(outbox)))
    )
