"""Rows into the outbox's table under a savepoint of the caller's transaction: one round trip where the driver can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
    ServerSession,
    is_out_of_step,
    note_process,
    script_of,
    server_session_of,
    statement_of,
)
from sqlalchemy_outbox.database.sqlite import begin_if_needed
from sqlalchemy_outbox.model import ATTEMPTS_MAX, REFUSED, EventId, Outbox

# The longest that a request waits for someone who has the outbox locked, a migration say.
LOCK_TIMEOUT = "1s"
# The most characters of an array in which rows travel: some ten thousand rows, so that no statement takes long.
_ARRAY_CHARS_MAX = 4 * 1024 * 1024
_ROW_COLUMNS: tuple[ColumnClause[Any], ...] = (
    column("event_id", EventId),
    *(column(name, Text) for name in ("event_type", "subject", "payload", "error", "failure_reason", "traceparent")),
)
_POSITION = column("position", Integer)
_NAME = column("name", Text)
_row_object = object_of(_ROW_COLUMNS)
# What is written of each of a few plain rows.
_SENT = ("event_id", "event_type", "subject", "payload", "traceparent")
# The most rows that travel as values, five each: of more than 50 psycopg would look for the places in the text each
# time, and an array of many is read sooner.
_FEW = 10
_SAVEPOINT = "outbox_write"
# The caller's own lock_timeout is put aside and restored: the savepoint's release would keep ours.
SET_LOCK_TIMEOUT = (
    "SELECT set_config('outbox.caller_lock_timeout', current_setting('lock_timeout'), true), "
    f"set_config('lock_timeout', '{LOCK_TIMEOUT}', true)"
)
RESTORE_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', current_setting('outbox.caller_lock_timeout'), true)"
_SET_LOCK_TIMEOUT, _RESTORE_LOCK_TIMEOUT = (
    statement_of(sql, ServerStatement(sql, ())) for sql in (SET_LOCK_TIMEOUT, RESTORE_LOCK_TIMEOUT)
)

# What PostgreSQL says, in words of its own around it, of an id that is not above all others.
BEHIND = "outbox: a sequence is behind, at "
# And where a subject was forgotten.
_FORGOTTEN = "outbox: a subject was forgotten"


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
    # Of its subject, by which that was forgotten or not; None where nobody is.
    name: str | None = None
    is_looked_up: bool = False

    def to_be_looked_up(self) -> Row:
        """The same, to be written by a statement that looks for each row whether its subject was forgotten."""
        return replace(self, is_looked_up=True)

    def unnamed(self) -> Row:
        """The same, written whether its subject was forgotten or not."""
        return replace(self, name=None)


def may_not_look(outbox: Outbox, error: Exception) -> bool:
    """Whether rows were refused because the role may not look who was forgotten, or the table is not there."""
    return outbox.erasures.name in str(error)


def is_of_forgotten(error: Exception) -> bool:
    """Whether rows were refused, all of them, because the subject of one was forgotten."""
    return _FORGOTTEN in str(error)


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
        is_naming = any(row.name for row in rows)
        statement = insert_rows(outbox, self._connection.dialect.name, way, is_naming=is_naming)
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
            named = tuple(n for n, row in enumerate(rows) if row.name)
            self._insert_few(_script(self._connection, _insert_few(outbox, len(rows), way, named)), rows)
            return
        is_naming = any(row.name for row in rows)
        sql = driver_sql(self._connection, insert_rows(outbox, self._connection.dialect.name, way, is_naming=is_naming))
        arrays = list(_arrays(rows))
        queries = [sql for _ in arrays]
        queries[0] = f"SAVEPOINT {_SAVEPOINT}; {SET_LOCK_TIMEOUT}; {queries[0]}"
        queries[-1] = f"{queries[-1]}; {RESTORE_LOCK_TIMEOUT}; RELEASE SAVEPOINT {_SAVEPOINT}"
        for query, array in zip(queries, arrays, strict=True):
            run_together(self._connection, query, {"rows": array})
            self._has_begun = True

    def _insert_few(self, script: Script, rows: list[Row]) -> None:
        values = {f"{name}_{n}": getattr(row, name) for n, row in enumerate(rows) for name in _SENT}
        values |= {f"name_{n}": row.name for n, row in enumerate(rows) if row.name}
        session = server_session_of(self._connection)
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

    def _send(self, session: ServerSession, text: str, values: dict[str, str | None]) -> None:
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
    insert_statement = statement_of(driver_sql(connection, insert_few), server_statement(connection, insert_few))
    return script_of(_SET_LOCK_TIMEOUT, insert_statement, _RESTORE_LOCK_TIMEOUT)


def _is_plain(row: Row) -> bool:
    """Whether it can be delivered, and written in whatever encoding the session has."""
    return row.error is None and not row.is_looked_up and row.event_type.isascii() and row.subject.isascii()


def _arrays(rows: list[Row]) -> Iterator[str]:
    """Rows as JSON arrays, almost always as one: a VALUES list would break at 65,535 parameters."""
    objects: list[str] = []
    chars = 0
    for position, row in enumerate(rows):
        named = {} if row.name is None else {_NAME.name: row.name}
        objects.append(json.dumps(_row_object(row) | {_POSITION.name: position} | named))
        chars += len(objects[-1])
        if chars > _ARRAY_CHARS_MAX:
            yield f"[{','.join(objects)}]"
            objects, chars = [], 0
    if objects:
        yield f"[{','.join(objects)}]"


@lru_cache(maxsize=64)
def insert_rows(outbox: Outbox, dialect_name: str, way: Way, *, is_naming: bool = False) -> Insert:
    """INSERT … SELECT from the bound JSON array `rows`, in its order; a row with an error is born failed.

    If they are named, a row whose subject was forgotten is a refusal: born failed, and without anything about a person.
    """
    rows = rows_of("rows", (*_ROW_COLUMNS, _POSITION, _NAME) if is_naming else (*_ROW_COLUMNS, _POSITION), dialect_name)
    written: dict[str, ColumnElement[Any]] = {row_column.name: rows.c[row_column.name] for row_column in _ROW_COLUMNS}
    if is_naming:
        written |= _refused_or(written, outbox, rows.c[_NAME.name])
    is_failed = written["error"].is_not(None)
    # One instant for the row's columns: an event that is due later than it was enqueued has been pushed back.
    now = DatabaseNow()
    values = {
        "event_id": written["event_id"],
        "event_type": written["event_type"],
        "subject": written["subject"],
        "payload": written["payload"],
        "created_at": now,
        "available_at": now,
        "failed_at": case((is_failed, now), else_=null()),
        "attempt_count": case((is_failed, literal_column(str(ATTEMPTS_MAX))), else_=literal_column("0")),
        "last_error": written["error"],
        "failure_reason": written["failure_reason"],
        "traceparent": written["traceparent"],
    }
    if way is Way.CHOSEN:
        values["id"] = _highest(outbox) + literal_column("1") + rows.c.position
    statement = insert(outbox.events).from_select(
        list(values),
        select(*values.values()).select_from(rows).order_by(rows.c.position),
        include_defaults=False,
    )
    return _checked(outbox, statement) if dialect_name == "postgresql" and way in _ARE_CHECKED else statement


def _refused_or(
    written: dict[str, ColumnElement[Any]], outbox: Outbox, name: ColumnElement[str]
) -> dict[str, ColumnElement[Any]]:
    """What is written in place of these where the subject of this name was forgotten. Relies on ix_…_erasures_name."""
    is_forgotten = select(outbox.erasures.c.id).where(outbox.erasures.c.name == name).exists()
    words = literal_column(f"'{REFUSED}'", Text)
    refused = {"subject": name, "payload": literal_column("'{}'", Text), "error": words, "failure_reason": words}
    return {key: case((is_forgotten, value), else_=written[key]) for key, value in refused.items()}


class _Uncast(UserDefinedType[str]):
    """Of a literal that PostgreSQL reads as its column's type."""

    cache_ok = True


@lru_cache(maxsize=256)
def _insert_few(outbox: Outbox, count: int, way: Way, named: tuple[int, ...] = ()) -> Any:
    """INSERT … VALUES of plain rows, which PostgreSQL plans sooner; binds each of `_SENT` with each row's number.

    And the `name` of those rows that are named: it refuses all where the subject of one was forgotten.
    """
    now = DatabaseNow()
    same = {"created_at": now, "available_at": now, "attempt_count": literal_column("0")}
    rows = [{name: bindparam(f"{name}_{n}", type_=_Uncast()) for name in _SENT} for n in range(count)]
    statement = insert(outbox.events).values([row | same for row in rows])
    forgotten = _is_any_forgotten(outbox, named) if named else None
    if way in _ARE_CHECKED:
        return _checked(outbox, statement, forgotten)
    return statement if forgotten is None else _returning(statement, forgotten)


def _is_any_forgotten(outbox: Outbox, named: tuple[int, ...]) -> tuple[ColumnElement[bool], ColumnElement[Any]]:
    """Relies on ix_…_erasures_name."""
    name = outbox.erasures.c.name
    is_one = name.in_([bindparam(f"name_{n}", type_=_Uncast()) for n in named])
    # Not a constant, or it would be refused as it is planned.
    words = literal_column(f"'{_FORGOTTEN} as of '", Text).concat(cast(func.now(), Text))
    return select(outbox.erasures.c.id).where(is_one).exists(), cast(words, Integer)


def _checked(
    outbox: Outbox, statement: Insert, forgotten: tuple[ColumnElement[bool], ColumnElement[Any]] | None = None
) -> Any:
    """Refused by PostgreSQL where an id is not above each that there was as the statement began.

    It was drawn later than all of those, whoever else writes: an id below them has been given out before.
    """
    id_ = outbox.events.c.id
    refusal = cast(literal_column(f"'{BEHIND}'", Text).concat(cast(id_, Text)), Integer)
    is_behind = (id_ <= _highest(outbox), refusal)
    return _returning(statement, is_behind) if forgotten is None else _returning(statement, forgotten, is_behind)


def _returning(statement: Insert, *refusals: tuple[ColumnElement[bool], ColumnElement[Any]]) -> Any:
    """The statement, which PostgreSQL refuses where one of the conditions holds."""
    return statement.returning(case(*refusals, else_=literal_column("0")))


def _highest(outbox: Outbox) -> ColumnElement[int]:
    there = outbox.events.alias("there")
    last = select(there.c.id).order_by(there.c.id.desc()).limit(literal_column("1"))
    return func.coalesce(last.scalar_subquery(), literal_column("0"))
