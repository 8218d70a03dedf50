"""Statements that psycopg is given without SQLAlchemy in between.

A pipeline is something that SQLAlchemy does not have; and of a claim that a commit waits for, its share is longer than
the way to the database and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect
from sqlalchemy.exc import DBAPIError

Schemas = tuple[tuple[str | None, str], ...]


def driver_sql(connection: Connection, statement: ClauseElement) -> str:
    """The statement as the connection's driver takes it. `statement` is kept for the next call with the same object."""
    schemas: Mapping[str | None, str] = connection.get_execution_options().get("schema_translate_map") or {}
    return _compile(statement, connection.dialect, tuple(schemas.items()))


def fetch_all(connection: Connection, sql: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
    """Run a statement of `driver_sql` on psycopg; its rows, with instants in the session's time zone. DBAPIError."""
    driver: Any = connection.connection.dbapi_connection
    try:
        with driver.cursor(binary=True) as cursor:
            rows: list[tuple[Any, ...]] = cursor.execute(sql, parameters).fetchall()
            return rows
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(sql, None, error) from error


@lru_cache(maxsize=512)
def _compile(statement: ClauseElement, dialect: Dialect, schemas: Schemas) -> str:
    if not schemas:
        return str(statement.compile(dialect=dialect))
    return str(statement.compile(dialect=dialect, schema_translate_map=dict(schemas), render_schema_translate=True))
