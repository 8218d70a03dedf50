"""Instants in columns, and the database's clock in SQL: due-ness is judged there, whatever a machine's clock says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    DateTime,
    Dialect,
    Float,
    Integer,
    Text,
    case,
    cast,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement, FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Fixed width, so that text sorts as time does; SQLite's clock has milliseconds.
_SQLITE_FORMAT = "%Y-%m-%dT%H:%M:%fZ"


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant: timestamptz on PostgreSQL, text like ``2026-11-24T06:40:02.123Z`` on SQLite.

    PostgreSQL writes a timestamptz as the session's DateStyle and TimeZone say, and psycopg reads ISO only; so it is
    asked for a number. It takes ISO 8601 with an offset whatever they say.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; pass an aware datetime, e.g. datetime.now(UTC)")
        if dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def column_expression(self, column: ColumnElement[datetime]) -> ColumnElement[datetime]:
        return _Readable(column)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        # Instead of `process_result_value`, which costs a claim of many events a second call for each value.
        return _read_text if dialect.name == "sqlite" else _read_microseconds


def _read_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value).astimezone(UTC)


def _read_microseconds(value: int | None) -> datetime | None:
    return None if value is None else _EPOCH + timedelta(microseconds=value)


class _Readable(FunctionElement[datetime]):
    """An instant as the driver reads it: microseconds since 1970 on PostgreSQL."""

    inherit_cache = True
    type = Instant()


class DatabaseNow(FunctionElement[datetime]):
    """The instant at which the statement began, plus `seconds` if any are given."""

    inherit_cache = True
    type = Instant()

    def __init__(self, seconds: ColumnElement[float] | float | None = None) -> None:
        super().__init__(*([] if seconds is None else [cast(seconds, Float)]))


class DatabaseNowExactly(FunctionElement[datetime]):
    """This very moment, also of a statement that has waited for a lock."""

    inherit_cache = True
    type = Instant()


class TransactionBeginning(FunctionElement[datetime]):
    """When the transaction began, plus `seconds`. In autocommit, when its statement came, before it waited for locks.

    On PostgreSQL only.
    """

    inherit_cache = True
    type = Instant()

    def __init__(self, seconds: ColumnElement[float]) -> None:
        super().__init__(cast(seconds, Float))


class SecondsUntil(FunctionElement[float]):
    """Seconds from the statement's beginning to an instant; negative when it has passed."""

    inherit_cache = True
    type = Float()


class StartOf(FunctionElement[int]):
    """The start of the span of so many seconds that an instant lies in, in whole seconds since 1970 (UTC)."""

    inherit_cache = True
    type = BigInteger()

    def __init__(self, instant: ColumnElement[datetime], seconds: int) -> None:
        super().__init__(instant, literal_column(str(int(seconds)), Integer))


@compiles(_Readable, "postgresql")
def _readable_postgresql(element: _Readable, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(extract(epoch FROM {compiler.process(element.clauses, **kw)}) * 1000000)::int8"


@compiles(_Readable, "sqlite")
def _readable_sqlite(element: _Readable, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


def not_ahead(instant: ColumnElement[datetime]) -> ColumnElement[datetime]:
    """The instant; where it lies ahead, which only a wrong clock can have said of the past, just before now."""
    just_now = DatabaseNow(-0.001)
    return case((instant > just_now, just_now), else_=instant)


def read_clock(connection: Connection) -> datetime:
    """What the database's clock shows."""
    return connection.execute(select(DatabaseNow())).scalar_one()


@compiles(DatabaseNow, "postgresql")
def _now_postgresql(element: DatabaseNow, compiler: SQLCompiler, **kw: Any) -> str:
    # statement_timestamp() is stable within a statement, so an index can serve a comparison with it.
    if len(element.clauses) == 0:
        return "statement_timestamp()"
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(DatabaseNow, "sqlite")
def _now_sqlite(element: DatabaseNow, compiler: SQLCompiler, **kw: Any) -> str:
    if len(element.clauses) == 0:
        return f"strftime('{_SQLITE_FORMAT}', 'now')"
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('{_SQLITE_FORMAT}', 'now', ({seconds}) || ' seconds')"


@compiles(DatabaseNowExactly, "postgresql")
def _now_exactly_postgresql(element: DatabaseNowExactly, compiler: SQLCompiler, **kw: Any) -> str:
    return "clock_timestamp()"


@compiles(DatabaseNowExactly, "sqlite")
def _now_exactly_sqlite(element: DatabaseNowExactly, compiler: SQLCompiler, **kw: Any) -> str:
    return f"strftime('{_SQLITE_FORMAT}', 'now')"


@compiles(TransactionBeginning, "postgresql")
def _transaction_beginning(element: TransactionBeginning, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(now() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(SecondsUntil, "postgresql")
def _seconds_until_postgresql(element: SecondsUntil, compiler: SQLCompiler, **kw: Any) -> str:
    # A float8 would be written with as many digits as the session's extra_float_digits allows.
    return f"extract(epoch FROM ({compiler.process(element.clauses, **kw)}) - statement_timestamp())::numeric"


@compiles(SecondsUntil, "sqlite")
def _seconds_until_sqlite(element: SecondsUntil, compiler: SQLCompiler, **kw: Any) -> str:
    instant = compiler.process(element.clauses, **kw)
    return f"((julianday({instant}) - julianday('now')) * 86400.0)"


@compiles(StartOf, "postgresql")
def _start_of_postgresql(element: StartOf, compiler: SQLCompiler, **kw: Any) -> str:
    instant, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(CAST(floor(extract(epoch FROM {instant}) / {seconds}) AS bigint) * {seconds})"


@compiles(StartOf, "sqlite")
def _start_of_sqlite(element: StartOf, compiler: SQLCompiler, **kw: Any) -> str:
    instant, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(CAST(strftime('%s', {instant}) AS INTEGER) / {seconds} * {seconds})"
