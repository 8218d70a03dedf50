"""Ids that would come again: a sequence lies behind its table's ids, after a restore or a replication without it.

Such an id is taken already, or makes a new event older than those that wait.

    CHECKED ──behind──▶ the sequence is moved ─▶ MOVED ──behind──▶ CHOSEN, one transaction at a time
       │                       └─ it may not be ─────────────────────▲
       └─ the role may not read ids ─▶ UNCHECKED

A worker looks for itself, and so does `doctor`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Integer,
    Select,
    Table,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    literal,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.exc import SQLAlchemyError

from sqlalchemy_outbox.database import isolation
from sqlalchemy_outbox.database.driver import qualified_name
from sqlalchemy_outbox.enqueueing.insertion import BEHIND, RESTORE_LOCK_TIMEOUT, SET_LOCK_TIMEOUT, Way
from sqlalchemy_outbox.model import Outbox

log = logging.getLogger(__name__)

_UNIQUE_VIOLATION, _NO_NUMBER, _NO_RIGHT = "23505", "22P02", "42501"
_TURN = func.pg_catalog.pg_advisory_xact_lock(func.pg_catalog.hashtextextended(literal("outbox ids"), 0))
_REMEDY = (
    "Its id has been given out before: have the table's owner move its sequence behind the highest id, by setval()."
)
_CACHED = text(
    "SELECT CAST(CAST(s.seqrelid AS regclass) AS text) FROM pg_catalog.pg_sequence AS s WHERE s.seqcache > 1 "
    "AND s.seqrelid = CAST(pg_catalog.pg_get_serial_sequence(:name, 'id') AS regclass)"
)
_SAY_EVERY_SECONDS = 60.0
_said_at: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Behind:
    """A table's sequence, which has given out `last` at most, while the table has `top`.

    `last` is None where the role may not see it.
    """

    table: str
    sequence: str
    last: int | None
    top: int

    def __str__(self) -> str:
        return f"the sequence of {self.table} is at {self.last or 0}, and its ids at {self.top}"

    @property
    def remedy(self) -> str:
        return f"SELECT setval('{self.sequence}', {self.top})"


def behind(connection: Connection, outbox: Outbox) -> Iterator[Behind]:
    """The sequences that lie behind, as far as the role may see; none on other databases than PostgreSQL."""
    if connection.dialect.name != "postgresql":
        return
    tables = (outbox.events, outbox.records.deliveries, outbox.records.audit, outbox.erasures)
    all_found = _look(connection, *tables)
    if all_found is None:
        # One that the role may not read hides the others.
        all_found = [found for table in tables for found in _look(connection, table) or ()]
    for found in all_found:
        if found.last is not None and found.top > found.last:
            yield found


def cached(connection: Connection, outbox: Outbox) -> str | None:
    """The events' sequence, if sessions draw ids ahead from it, so that a later event may get an earlier id."""
    if connection.dialect.name != "postgresql":
        return None
    parameters = {"name": qualified_name(connection, outbox.events)}
    return connection.execute(_CACHED, parameters).scalar_one_or_none()


def move(connection: Connection, outbox: Outbox) -> list[Behind]:
    """Move what lies behind, and return that; what the role may not move is left. Outside of the transaction's fate."""
    moved = []
    for found in list(behind(connection, outbox)):
        if _move(connection, found):
            moved.append(found)
            _say(logging.WARNING, found, "it was moved")
    return moved


def in_words(outbox: Outbox, error: Exception) -> str:
    """Why nothing was written, with the remedy where ids are the reason."""
    words = isolation.in_words(error)
    return f"{words.rstrip('.')}. {_REMEDY}" if _is_behind(outbox, error) else words


def _is_behind(outbox: Outbox, error: Exception) -> bool:
    """Whether a write was refused because an id is not above all others."""
    state, words = isolation.sqlstate_of(error), str(error)
    is_taken = state == _UNIQUE_VIOLATION and f"uq_{outbox.name}_event_id" not in words
    return is_taken or (state == _NO_NUMBER and BEHIND in words)


def another_way(connection: Connection, outbox: Outbox, way: Way, error: Exception) -> Way | None:
    """How else to write what was refused by the error; None where there is no other way."""
    if connection.dialect.name != "postgresql":
        return None
    if way is Way.CHECKED and isolation.sqlstate_of(error) == _NO_RIGHT:
        return Way.UNCHECKED
    if not _is_behind(outbox, error):
        return None
    try:
        if way is Way.CHECKED and outbox.events.name in [found.table for found in _move_events(connection, outbox)]:
            return Way.MOVED
        if way in (Way.CHECKED, Way.MOVED) and _take_turn(connection):
            return Way.CHOSEN
    except SQLAlchemyError as refusal:
        log.debug("The sequence of %s cannot be looked at: %s", outbox.name, type(refusal).__name__)
    return None


def _move_events(connection: Connection, outbox: Outbox) -> list[Behind]:
    found = next(iter(_look(connection, outbox.events) or ()), None)
    if found is None or found.top <= (found.last or 0):
        # Somebody has moved it meanwhile.
        return [] if found is None else [found]
    if _move(connection, found):
        _say(logging.WARNING, found, "it was moved")
        return [found]
    _say(
        logging.ERROR,
        found,
        f"the role may not move it, and ids are chosen, by one transaction at a time: {found.remedy}",
    )
    return []


def _look(connection: Connection, *tables: Table) -> list[Behind] | None:
    """Where the sequences of these tables are, in order, save for empty ones; None where one cannot be looked at."""
    names = {f"name_{n}": qualified_name(connection, table) for n, table in enumerate(tables)}
    connection.exec_driver_sql("SAVEPOINT outbox_sequence")
    try:
        rows = connection.execute(_positions(tables), names).all()
    except SQLAlchemyError:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT outbox_sequence")
        return None
    finally:
        connection.exec_driver_sql("RELEASE SAVEPOINT outbox_sequence")
    return [
        Behind(tables[row.position].name, row.sequence, row.last, row.top)
        for row in rows
        if row.sequence is not None and row.top is not None
    ]


def _move(connection: Connection, found: Behind) -> bool:
    """A sequence's value is no part of a transaction: the savepoint's end gives back the turn, and nothing else."""
    connection.exec_driver_sql("SAVEPOINT outbox_sequence")
    try:
        connection.exec_driver_sql(SET_LOCK_TIMEOUT)
        connection.execute(select(_TURN))
        sequence = cast(literal(found.sequence, Text), REGCLASS)
        # What others have drawn and not committed counts too.
        top = func.greatest(found.top, func.pg_catalog.nextval(sequence))
        connection.execute(select(func.pg_catalog.setval(sequence, top)))
    except SQLAlchemyError:
        return False
    else:
        return True
    finally:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT outbox_sequence")
        connection.exec_driver_sql("RELEASE SAVEPOINT outbox_sequence")


def _take_turn(connection: Connection) -> bool:
    """Nobody else chooses ids until this transaction has ended."""
    connection.exec_driver_sql("SAVEPOINT outbox_sequence")
    try:
        connection.exec_driver_sql(SET_LOCK_TIMEOUT)
        connection.execute(select(_TURN))
        connection.exec_driver_sql(RESTORE_LOCK_TIMEOUT)
    except SQLAlchemyError:
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT outbox_sequence")
        return False
    finally:
        connection.exec_driver_sql("RELEASE SAVEPOINT outbox_sequence")
    return True


@lru_cache(maxsize=64)
def _positions(tables: tuple[Table, ...]) -> CompoundSelect[Any]:
    """Binds the tables' names by their numbers."""
    return union_all(*(_position(table, n) for n, table in enumerate(tables))).order_by(column("position"))


def _position(table: Table, number: int) -> Select[Any]:
    name = bindparam(f"name_{number}", type_=Text)
    sequence = cast(func.pg_catalog.pg_get_serial_sequence(name, "id"), REGCLASS)
    may_look = func.pg_catalog.has_sequence_privilege(sequence, "USAGE, SELECT")
    return select(
        literal(number, Integer).label("position"),
        cast(sequence, Text).label("sequence"),
        select(func.max(table.c.id)).scalar_subquery().label("top"),
        case((may_look, func.coalesce(func.pg_catalog.pg_sequence_last_value(sequence), 0))).label("last"),
    )


def _say(level: int, found: Behind, what: str) -> None:
    now = time.monotonic()
    if now - _said_at.get(found.sequence, float("-inf")) > _SAY_EVERY_SECONDS:
        _said_at[found.sequence] = now
        log.log(
            level,
            "The sequence of %s lies behind its ids, at %s and not %d, as after a restore without sequences; %s.",
            *(found.table, found.last, found.top, what),
        )
