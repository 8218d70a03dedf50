"""Rows into the outbox's table under a savepoint of the caller's transaction: one round trip where the driver can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import (
    ColumnClause,
    Connection,
    Insert,
    Integer,
    Text,
    case,
    column,
    insert,
    literal_column,
    null,
    select,
)

from outbox.clock import DatabaseNowExactly
from outbox.driver import driver_sql
from outbox.model import ATTEMPTS_MAX, EventId, Outbox
from outbox.rows import object_of, rows_of
from outbox.sqlite import begin_if_needed

if TYPE_CHECKING:
    import psycopg

# A request does not wait longer for someone who has the outbox locked, a migration say.
LOCK_TIMEOUT = "1s"
_ROWS_PER_STATEMENT = 1000
_ROW_COLUMNS: tuple[ColumnClause[Any], ...] = (
    column("event_id", EventId),
    *(column(name, Text) for name in ("event_type", "subject", "payload", "error", "failure_reason", "traceparent")),
)
_POSITION = column("position", Integer)
_row_object = object_of(_ROW_COLUMNS)
_SAVEPOINT = "outbox_write"
# The caller's own lock_timeout is put aside and restored: the savepoint's release would keep ours.
_SET_LOCK_TIMEOUT = (
    "SELECT set_config('outbox.caller_lock_timeout', current_setting('lock_timeout'), true), "
    f"set_config('lock_timeout', '{LOCK_TIMEOUT}', true)"
)
_RESTORE_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', current_setting('outbox.caller_lock_timeout'), true)"


@dataclass(frozen=True, slots=True)
class Row:
    event_id: str
    event_type: str
    subject: str
    payload: str
    error: str | None
    failure_reason: str | None
    traceparent: str | None


class Savepoint(Protocol):
    """A savepoint of the caller's transaction that takes rows."""

    def insert(self, outbox: Outbox, rows: list[Row]) -> None:
        """Insert all rows and release the savepoint; after an error it is still to be rolled back."""

    def roll_back(self) -> None:
        """Leave the transaction as it was before, or raise when it or its connection is gone."""


def open_savepoint(connection: Connection) -> Savepoint:
    if connection.dialect.driver in ("psycopg", "psycopg_async"):
        return _PipelinedSavepoint(connection)
    return _PlainSavepoint(connection)


class _PlainSavepoint:
    """Statement by statement, through SQLAlchemy: SQLite, where a round trip is a function call, and other drivers."""

    def __init__(self, connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            begin_if_needed(connection)
        self._connection = connection
        self._savepoint = connection.begin_nested()

    def insert(self, outbox: Outbox, rows: list[Row]) -> None:
        is_postgresql = self._connection.dialect.name == "postgresql"
        if is_postgresql:
            self._connection.exec_driver_sql(_SET_LOCK_TIMEOUT)
        statement = insert_rows(outbox, self._connection.dialect.name)
        for parameters in _as_parameters(rows):
            self._connection.execute(statement, parameters)
        if is_postgresql:
            self._connection.exec_driver_sql(_RESTORE_LOCK_TIMEOUT)
        self._savepoint.commit()

    def roll_back(self) -> None:
        self._savepoint.rollback()


class _PipelinedSavepoint:
    """All statements in one psycopg pipeline, so that a transaction pays one round trip however many its events."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def insert(self, outbox: Outbox, rows: list[Row]) -> None:
        sql = driver_sql(self._connection, insert_rows(outbox, self._connection.dialect.name))
        statements: list[tuple[str, dict[str, str] | None]] = [
            (f"SAVEPOINT {_SAVEPOINT}", None),
            (_SET_LOCK_TIMEOUT, None),
            *((sql, parameters) for parameters in _as_parameters(rows)),
            (_RESTORE_LOCK_TIMEOUT, None),
            (f"RELEASE SAVEPOINT {_SAVEPOINT}", None),
        ]
        dbapi_connection: Any = self._connection.connection.dbapi_connection
        if self._connection.dialect.is_async:
            dbapi_connection.run_async(lambda driver: _run_pipelined_async(driver, statements))
        else:
            _run_pipelined(dbapi_connection, statements)

    def roll_back(self) -> None:
        # psycopg takes for prepared what it sent behind the error and the server skipped; to use it would fail.
        driver: Any = self._connection.connection.driver_connection
        driver.prepare_threshold = None
        # Through SQLAlchemy, which tells a lost connection from a refused statement, and renews the pool.
        self._connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        self._connection.exec_driver_sql(f"RELEASE SAVEPOINT {_SAVEPOINT}")


def _run_pipelined(driver: psycopg.Connection[Any], statements: list[tuple[str, dict[str, str] | None]]) -> None:
    with driver.cursor() as cursor, driver.pipeline():
        for sql, parameters in statements:
            cursor.execute(sql.encode(), parameters)


async def _run_pipelined_async(
    driver: psycopg.AsyncConnection[Any], statements: list[tuple[str, dict[str, str] | None]]
) -> None:
    async with driver.cursor() as cursor, driver.pipeline():
        for sql, parameters in statements:
            await cursor.execute(sql.encode(), parameters)


def _as_parameters(rows: list[Row]) -> Iterator[dict[str, str]]:
    """Rows travel as one JSON array: a VALUES list would break at 65,535 parameters."""
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        chunk = rows[start : start + _ROWS_PER_STATEMENT]
        yield {"rows": json.dumps([_row_object(row) | {_POSITION.name: i} for i, row in enumerate(chunk)])}


@lru_cache(maxsize=64)
def insert_rows(outbox: Outbox, dialect_name: str) -> Insert:
    """INSERT … SELECT from the bound JSON array `rows`, in its order; a row with an error is born failed."""
    bound = rows_of("rows", (*_ROW_COLUMNS, _POSITION), dialect_name)
    # One instant for the row's columns: an event that is due later than it was enqueued has been pushed back.
    rows = select(bound, DatabaseNowExactly().label("now")).subquery("stamped")
    is_failed = rows.c.error.is_not(None)
    values = {
        "event_id": rows.c.event_id,
        "event_type": rows.c.event_type,
        "subject": rows.c.subject,
        "payload": rows.c.payload,
        "created_at": rows.c.now,
        "available_at": rows.c.now,
        "failed_at": case((is_failed, rows.c.now), else_=null()),
        "attempt_count": case((is_failed, literal_column(str(ATTEMPTS_MAX))), else_=literal_column("0")),
        "last_error": rows.c.error,
        "failure_reason": rows.c.failure_reason,
        "traceparent": rows.c.traceparent,
    }
    return insert(outbox.events).from_select(
        list(values),
        select(*values.values()).select_from(rows).order_by(rows.c.position),
        include_defaults=False,
    )
