"""Statements that psycopg is given without SQLAlchemy in between, and names as SQLAlchemy would write them.

SQLAlchemy does not send several statements at once; and of a claim that a commit waits for, its share is longer than
the way to the database and back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect, Table
from sqlalchemy.exc import DBAPIError


@dataclass(frozen=True, slots=True)
class ServerStatement:
    """A statement as the server takes it, with the names of the values for $1, $2 and so on."""

    sql: str
    names: tuple[str, ...]


def driver_sql(connection: Connection, statement: ClauseElement) -> str:
    """The statement as the connection's driver takes it. `statement` is kept for the next call with the same object."""
    return _compile(statement, connection.dialect, tuple(_schemas_of(connection).items()))


def qualified_name(connection: Connection, table: Table) -> str:
    """The table's name, quoted where it must be, in the schema that the connection's options say."""
    preparer = connection.dialect.identifier_preparer
    schema = _schemas_of(connection).get(table.schema, table.schema)
    name = preparer.quote(table.name)
    return name if schema is None else f"{preparer.quote_schema(schema)}.{name}"


def server_statement(connection: Connection, statement: ClauseElement) -> ServerStatement:
    """The statement as PostgreSQL takes it: psycopg need not look for the places of its parameters, however long it is.

    `statement` is kept for the next call with the same object.
    """
    return _compile_for_server(statement, connection.dialect, tuple(_schemas_of(connection).items()))


def fetch_all(
    connection: Connection, statement: ServerStatement, parameters: Mapping[str, object]
) -> list[tuple[Any, ...]]:
    """Run the statement on psycopg; its rows, as the driver has them. Raises DBAPIError."""
    driver: Any = connection.connection.dbapi_connection
    values = [parameters[name] for name in statement.names]
    try:
        with _raw_cursor(driver.cursor_factory)(driver) as cursor:
            rows: list[tuple[Any, ...]] = cursor.execute(statement.sql, values, binary=True).fetchall()
            return rows
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(statement.sql, None, error) from error


def run_together(connection: Connection, sql: str, parameters: Mapping[str, object]) -> bytes | None:
    """Run the statements of one text in one round trip, on psycopg, sync or async; raises psycopg's errors.

    Returns the first value of the first statement's answer, as the server wrote it. psycopg writes the parameters into
    the text, as literals: what travels apart from them can be one statement only.
    """
    from psycopg import AsyncClientCursor, ClientCursor  # noqa: PLC0415  # Only PostgreSQL's users install it.

    driver: Any = connection.connection.dbapi_connection
    # Not to be prepared, or psycopg would remember each text, literals and all.
    if connection.dialect.is_async:

        async def run(async_driver: Any) -> bytes | None:
            async with AsyncClientCursor(async_driver) as cursor:
                await cursor.execute(sql.encode(), parameters, prepare=False)
                return _first_value(cursor.pgresult)

        value: bytes | None = driver.run_async(run)
        return value
    with ClientCursor(driver) as cursor:
        cursor.execute(sql.encode(), parameters, prepare=False)
        return _first_value(cursor.pgresult)


def _first_value(answer: Any) -> bytes | None:
    value: bytes | None = answer.get_value(0, 0) if answer.ntuples else None
    return value


def driver_connection(connection: Connection) -> Any:
    """The driver's own connection, of a detached one as well, where SQLAlchemy's property of that name is None."""
    dbapi_connection: Any = connection.connection.dbapi_connection
    return connection.dialect.get_driver_connection(dbapi_connection)


def in_good_transaction(connection: Connection) -> bool:
    """Whether the server waits for the next statement of a transaction in which none has failed. On psycopg."""
    from psycopg.pq import TransactionStatus  # noqa: PLC0415  # As above.

    driver = driver_connection(connection)
    return bool(driver.info.transaction_status == TransactionStatus.INTRANS)


def _schemas_of(connection: Connection) -> Mapping[str | None, str]:
    schemas: Mapping[str | None, str] | None = connection.get_execution_options().get("schema_translate_map")
    return schemas or {}


@lru_cache(maxsize=512)
def _compile(statement: ClauseElement, dialect: Dialect, schemas: tuple[tuple[str | None, str], ...]) -> str:
    if not schemas:
        return str(statement.compile(dialect=dialect))
    return str(statement.compile(dialect=dialect, schema_translate_map=dict(schemas), render_schema_translate=True))


@lru_cache(maxsize=512)
def _compile_for_server(
    statement: ClauseElement, dialect: Dialect, schemas: tuple[tuple[str | None, str], ...]
) -> ServerStatement:
    numbered = copy.copy(dialect)
    numbered.paramstyle, numbered.positional = "numeric_dollar", True
    # Else it would double each percent sign.
    numbered.identifier_preparer = numbered.preparer(numbered)
    options: dict[str, Any] = {}
    if schemas:
        options = {"schema_translate_map": dict(schemas), "render_schema_translate": True}
    compiled: Any = statement.compile(dialect=numbered, **options)
    return ServerStatement(str(compiled), tuple(compiled.positiontup))


@lru_cache(maxsize=8)
def _raw_cursor(cursor_class: type[Any]) -> type[Any]:
    """The connection's kind of cursor, which sends a statement as it is."""
    from psycopg import RawCursor  # noqa: PLC0415  # As above.

    return type("ServerCursor", (RawCursor, cursor_class), {})
