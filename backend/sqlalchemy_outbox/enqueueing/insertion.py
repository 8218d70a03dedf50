"""Rows into the outbox's table under a savepoint of the caller's transaction: one round trip where the driver can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    Insert,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    insert,
    literal_column,
    null,
    select,
)
from sqlalchemy.types import UserDefinedType

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.database.driver import (
    ServerStatement,
    driver_sql,
    in_good_transaction,
    run_together,
    server_statement,
)
from sqlalchemy_outbox.database.json_rows import object_of, rows_of
from sqlalchemy_outbox.database.prepared_statements import (
    PROCESS,
    Script,
    Session,
    is_out_of_step,
    note_process,
    script,
    session_of,
    statement,
)
from sqlalchemy_outbox.database.sqlite import begin_if_needed
from sqlalchemy_outbox.model import ATTEMPTS_MAX, EventId, Outbox

# A request does not wait longer for someone who has the outbox locked, a migration say.
LOCK_TIMEOUT = "1s"
# Of the arrays in which rows travel: some ten thousand rows, so that no statement takes long.
_ARRAY_CHARS_MAX = 4 * 1024 * 1024
_ROW_COLUMNS: tuple[ColumnClause[Any], ...] = (
    column("event_id", EventId),
    *(column(name, Text) for name in ("event_type", "subject", "payload", "error", "failure_reason", "traceparent")),
)
_POSITION = column("position", Integer)
_row_object = object_of(_ROW_COLUMNS)
# What is written of each of a few plain rows.
_SENT = ("event_id", "event_type", "subject", "payload", "traceparent")
# With more than 50 values psycopg would look for their places in the text each time; an array of many is read sooner.
_FEW = 10
_SAVEPOINT = "outbox_write"
# The caller's own lock_timeout is put aside and restored: the savepoint's release would keep ours.
SET_LOCK_TIMEOUT = (
    "SELECT set_config('outbox.caller_lock_timeout', current_setting('lock_timeout'), true), "
    f"set_config('lock_timeout', '{LOCK_TIMEOUT}', true)"
)
RESTORE_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', current_setting('outbox.caller_lock_timeout'), true)"
_SET_LOCK_TIMEOUT, _RESTORE_LOCK_TIMEOUT = (
    statement(sql, ServerStatement(sql, ())) for sql in (SET_LOCK_TIMEOUT, RESTORE_LOCK_TIMEOUT)
)

# What PostgreSQL says, in words of its own around it, of an id that is not above all others.
BEHIND = "outbox: a sequence is behind, at "


class Way(Enum):
    """How rows get their ids (see `sequences`)."""

    CHECKED = auto()
    MOVED = auto()
    CHOSEN = auto()
    UNCHECKED = auto()


@dataclass(frozen=True, slots=True)
class Row:
    event_id: str
    event_type: str
    subject: str
    payload: str
    error: str | None
    failure_reason: str | None
    traceparent: str | None


_ARE_CHECKED = (Way.CHECKED, Way.MOVED)


class Savepoint(Protocol):
    """A savepoint of the caller's transaction that takes rows."""

    def insert(self, outbox: Outbox, rows: list[Row], way: Way) -> None:
        """Insert all rows and release the savepoint; after an error it is still to be rolled back."""

    def roll_back(self) -> None:
        """Leave the transaction as it was before, or raise when it or its connection is gone."""


def open_savepoint(connection: Connection) -> Savepoint:
    if connection.dialect.driver in ("psycopg", "psycopg_async"):
        return _SavepointInOneQuery(connection)
    return _PlainSavepoint(connection)


class _PlainSavepoint:
    """Statement by statement, through SQLAlchemy: SQLite, where a round trip is a function call, and other drivers."""

    def __init__(self, connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            begin_if_needed(connection)
        self._connection = connection
        self._savepoint = connection.begin_nested()

    def insert(self, outbox: Outbox, rows: list[Row], way: Way) -> None:
        is_postgresql = self._connection.dialect.name == "postgresql"
        if is_postgresql:
            self._connection.exec_driver_sql(SET_LOCK_TIMEOUT)
        statement = insert_rows(outbox, self._connection.dialect.name, way)
        for array in _arrays(rows):
            self._connection.execute(statement, {"rows": array})
        if is_postgresql:
            self._connection.exec_driver_sql(RESTORE_LOCK_TIMEOUT)
        self._savepoint.commit()

    def roll_back(self) -> None:
        self._savepoint.rollback()


class _SavepointInOneQuery:
    """All statements in one text, so that a transaction pays one round trip however many its events.

    A pipeline of psycopg's would pay one too, and keep the INSERT's plan; but it takes twice the client's time, and of
    a client's threads one computes at a time.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._has_begun = False

    def insert(self, outbox: Outbox, rows: list[Row], way: Way) -> None:
        if len(rows) <= _FEW and way is not Way.CHOSEN and all(map(_is_plain, rows)):
            self._insert_few(_script(self._connection, _insert_few(outbox, len(rows), way)), rows)
            return
        sql = driver_sql(self._connection, insert_rows(outbox, self._connection.dialect.name, way))
        arrays = list(_arrays(rows))
        queries = [sql for _ in arrays]
        queries[0] = f"SAVEPOINT {_SAVEPOINT}; {SET_LOCK_TIMEOUT}; {queries[0]}"
        queries[-1] = f"{queries[-1]}; {RESTORE_LOCK_TIMEOUT}; RELEASE SAVEPOINT {_SAVEPOINT}"
        for query, array in zip(queries, arrays, strict=True):
            run_together(self._connection, query, {"rows": array})
            self._has_begun = True

    def _insert_few(self, script: Script, rows: list[Row]) -> None:
        values = {f"{name}_{n}": getattr(row, name) for n, row in enumerate(rows) for name in _SENT}
        session = session_of(self._connection)
        text = session.text_of(script)
        try:
            self._send(session, text, values)
        except self._connection.dialect.loaded_dbapi.Error as error:
            if text is script.plain or not is_out_of_step(error):
                raise
            self.roll_back()
            session.give_up()
            self._send(session, script.plain, values)
        session.note_sent(script, text)

    def _send(self, session: Session, text: str, values: dict[str, str | None]) -> None:
        query = f"SAVEPOINT {_SAVEPOINT}; {text}; RELEASE SAVEPOINT {_SAVEPOINT}"
        if session.is_own is None:
            note_process(self._connection, session, run_together(self._connection, f"{PROCESS}; {query}", values))
        else:
            run_together(self._connection, query, values)

    def roll_back(self) -> None:
        if not self._has_begun and in_good_transaction(self._connection):
            # It failed before it was sent.
            return
        # Through SQLAlchemy, which tells a lost connection from a refused statement, and renews the pool.
        self._connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        self._connection.exec_driver_sql(f"RELEASE SAVEPOINT {_SAVEPOINT}")


def _script(connection: Connection, insert_few: Insert) -> Script:
    insert_statement = statement(driver_sql(connection, insert_few), server_statement(connection, insert_few))
    return script(_SET_LOCK_TIMEOUT, insert_statement, _RESTORE_LOCK_TIMEOUT)


def _is_plain(row: Row) -> bool:
    """Whether it can be delivered, and written in whatever encoding the session has."""
    return row.error is None and row.event_type.isascii() and row.subject.isascii()


def _arrays(rows: list[Row]) -> Iterator[str]:
    """Rows as JSON arrays, almost always as one: a VALUES list would break at 65,535 parameters."""
    objects: list[str] = []
    chars = 0
    for position, row in enumerate(rows):
        objects.append(json.dumps(_row_object(row) | {_POSITION.name: position}))
        chars += len(objects[-1])
        if chars > _ARRAY_CHARS_MAX:
            yield f"[{','.join(objects)}]"
            objects, chars = [], 0
    if objects:
        yield f"[{','.join(objects)}]"


@lru_cache(maxsize=64)
def insert_rows(outbox: Outbox, dialect_name: str, way: Way) -> Insert:
    """INSERT … SELECT from the bound JSON array `rows`, in its order; a row with an error is born failed."""
    rows = rows_of("rows", (*_ROW_COLUMNS, _POSITION), dialect_name)
    is_failed = rows.c.error.is_not(None)
    # One instant for the row's columns: an event that is due later than it was enqueued has been pushed back.
    now = DatabaseNow()
    values = {
        "event_id": rows.c.event_id,
        "event_type": rows.c.event_type,
        "subject": rows.c.subject,
        "payload": rows.c.payload,
        "created_at": now,
        "available_at": now,
        "failed_at": case((is_failed, now), else_=null()),
        "attempt_count": case((is_failed, literal_column(str(ATTEMPTS_MAX))), else_=literal_column("0")),
        "last_error": rows.c.error,
        "failure_reason": rows.c.failure_reason,
        "traceparent": rows.c.traceparent,
    }
    if way is Way.CHOSEN:
        values["id"] = _highest(outbox) + literal_column("1") + rows.c.position
    statement = insert(outbox.events).from_select(
        list(values),
        select(*values.values()).select_from(rows).order_by(rows.c.position),
        include_defaults=False,
    )
    return _checked(outbox, statement) if dialect_name == "postgresql" and way in _ARE_CHECKED else statement


class _Uncast(UserDefinedType[str]):
    """Of a literal that PostgreSQL reads as its column's type."""

    cache_ok = True


@lru_cache(maxsize=256)
def _insert_few(outbox: Outbox, count: int, way: Way) -> Insert:
    """INSERT … VALUES of plain rows, which PostgreSQL plans sooner; binds each of `_SENT` with each row's number."""
    now = DatabaseNow()
    same = {"created_at": now, "available_at": now, "attempt_count": literal_column("0")}
    rows = [{name: bindparam(f"{name}_{n}", type_=_Uncast()) for name in _SENT} for n in range(count)]
    statement = insert(outbox.events).values([row | same for row in rows])
    return _checked(outbox, statement) if way in _ARE_CHECKED else statement


def _checked(outbox: Outbox, statement: Insert) -> Any:
    """Refused by PostgreSQL where an id is not above each that there was as the statement began.

    It was drawn later than all of those, whoever else writes: an id below them has been given out before.
    """
    id_ = outbox.events.c.id
    refusal = cast(literal_column(f"'{BEHIND}'", Text).concat(cast(id_, Text)), Integer)
    return statement.returning(case((id_ > _highest(outbox), literal_column("0")), else_=refusal))


def _highest(outbox: Outbox) -> ColumnElement[int]:
    there = outbox.events.alias("there")
    last = select(there.c.id).order_by(there.c.id.desc()).limit(literal_column("1"))
    return func.coalesce(last.scalar_subquery(), literal_column("0"))
