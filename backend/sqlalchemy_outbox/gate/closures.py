"""The gate's closures: since when it is shut, why, and until when. Written in the transaction that shuts or opens it.

A closure of a throttle has its end from the start: the gate opens by itself, and no statement tells of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from sqlalchemy_outbox.clock import DatabaseNow, Instant
from sqlalchemy_outbox.model import GateState, Outbox

# A throttle that comes again within this time is the same one to whoever looks.
_GAP_MAX = timedelta(minutes=1)
READ_MAX = 1000


@dataclass(frozen=True, slots=True)
class Closure:
    """The gate was shut from `began_at` on; `ended_at` is None while it is, and its end is not known.

    It was shut `times` times, with less than a minute between.
    """

    began_at: datetime
    ended_at: datetime | None
    state: GateState
    reason: str | None
    held_by: str | None
    times: int

    def as_json(self) -> dict[str, object]:
        return {
            "began_at": self.began_at.isoformat(),
            "ended_at": None if self.ended_at is None else self.ended_at.isoformat(),
            "state": self.state.value,
            "reason": self.reason,
            "held_by": self.held_by,
            "times": self.times,
        }


def note_shut(
    connection: Connection,
    outbox: Outbox,
    state: GateState,
    reason: str | None,
    held_by: str | None,
    ends_at: datetime | None,
) -> None:
    """Begin a closure, or go on with the one that lasts. The caller has the gate's row locked."""
    table = outbox.records.closures
    last = connection.execute(_last(outbox)).one_or_none()
    is_same = last is not None and (last.state, last.held_by) == (state.value, held_by)
    if last is not None and is_same and (last.is_shut or (last.is_recent and state is GateState.THROTTLED)):
        changed = {"reason": reason, "ended_at": ends_at, "times": last.times + (not last.is_shut)}
        connection.execute(update(table).where(table.c.began_at == last.began_at).values(changed))
        return
    note_open(connection, outbox)
    shut = {"state": state.value, "reason": reason, "held_by": held_by, "ended_at": ends_at, "times": 1}
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    # SQLite's clock has milliseconds, and a person's release may be as young.
    begun = (
        insert(table)
        .values(began_at=DatabaseNow(), **shut)
        .on_conflict_do_update(index_elements=["began_at"], set_=shut)
    )
    connection.execute(begun)


def note_open(connection: Connection, outbox: Outbox) -> None:
    """End the closure that lasts, if one does."""
    table = outbox.records.closures
    last = connection.execute(_last(outbox)).one_or_none()
    if last is not None and last.is_shut:
        connection.execute(update(table).where(table.c.began_at == last.began_at).values(ended_at=DatabaseNow()))


def shut_since(connection: Connection, outbox: Outbox) -> datetime | None:
    """Since when the gate is shut; None when it is open, or nobody has noted it."""
    last = connection.execute(_last(outbox)).one_or_none()
    return last.began_at if last is not None and last.is_shut else None


def read_closures(connection: Connection, outbox: Outbox, since: datetime) -> list[Closure]:
    """Those that lasted at some time since then, in order; at most the newest READ_MAX."""
    c = outbox.records.closures.c
    earlier = select(func.max(c.began_at)).where(c.began_at < since).scalar_subquery()
    first = func.coalesce(earlier, since, type_=Instant())
    statement = (
        select(*outbox.records.closures.c)
        .where(c.began_at >= first, or_(c.ended_at.is_(None), c.ended_at >= since))
        .order_by(c.began_at.desc())
        .limit(READ_MAX)
    )
    return [_as_closure(row) for row in reversed(connection.execute(statement).all())]


def forget_closures(connection: Connection, outbox: Outbox, older_than: timedelta, limit: int) -> None:
    c = outbox.records.closures.c
    is_old = c.began_at < DatabaseNow(-older_than.total_seconds())
    old = select(c.began_at).where(is_old, c.ended_at < DatabaseNow()).order_by(c.began_at)
    connection.execute(delete(outbox.records.closures).where(c.began_at.in_(old.limit(limit))))


def _last(outbox: Outbox) -> Select[Any]:
    c = outbox.records.closures.c
    is_shut = or_(c.ended_at.is_(None), c.ended_at > DatabaseNow())
    is_recent = c.ended_at > DatabaseNow(-_GAP_MAX.total_seconds())
    told = (is_shut.label("is_shut"), is_recent.label("is_recent"))
    return select(c.began_at, c.state, c.held_by, c.times, *told).order_by(c.began_at.desc()).limit(1)


def _as_closure(row: Row[Any]) -> Closure:
    return Closure(row.began_at, row.ended_at, GateState(row.state), row.reason, row.held_by, row.times)
