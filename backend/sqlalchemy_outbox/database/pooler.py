"""PostgreSQL behind a pooler, where a session is somebody else's after each transaction.

    direct            settings are the session's, statements are prepared, a worker listens
    behind a pooler   settings are each transaction's, nothing is prepared, a worker polls

No startup parameter is sent either way: poolers refuse those that they do not know. A pooler is found out by the
process that the server says it is, where it is not the one that the connection was told of as it began. PgBouncer says
from 1.26 on in which mode it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from sqlalchemy_outbox.database import postgresql
from sqlalchemy_outbox.database.engines import Pooler
from sqlalchemy_outbox.database.isolation import is_autocommit
from sqlalchemy_outbox.database.prepared_statements import IS_POOLED, PROCESS
from sqlalchemy_outbox.database.read_only import give_up_read_only_connections

_READ_ONLY = "default_transaction_read_only"
# One round trip: the settings are made where the session is ours, save for those that the client began with.
_PREPARE_SESSION = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.count(pg_catalog.set_config(s.name, w.value, false))
FROM unnest(%s::text[], %s::text[]) AS w (name, value)
JOIN pg_catalog.pg_settings AS s ON s.name = w.name AND s.source <> 'client'
WHERE %s OR pg_catalog.pg_backend_pid() = %s
"""
# PgBouncer keeps what it first heard of a setting for all clients, long after the server has changed it.
_FORGET_READ_ONLY = """
SELECT pg_catalog.set_config(name, reset_val, false) FROM pg_catalog.pg_settings
WHERE name = 'default_transaction_read_only' AND setting <> reset_val
"""
_PREPARE_TRANSACTION = """
SELECT pg_catalog.count(pg_catalog.set_config(w.name, w.value, true))
FROM unnest(%s::text[], %s::text[]) AS w (name, value)
"""


# Names of settings, and their values.
_Arrays = tuple[list[str], list[str]]


def configure_engine(
    engine: Engine | AsyncEngine, settings: Mapping[str, int] | None = None, pooler: Pooler = Pooler.AUTO
) -> None:
    """Give each session of a psycopg engine, sync or async, what it needs, also where sessions are shared.

    `settings` are of the server, in milliseconds. What the URL's `options` say stands.
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    wanted = {**postgresql.SETTINGS, **(settings or {})}
    arrays = list(wanted), [str(value) for value in wanted.values()]
    give_up_read_only_connections(sync_engine)
    event.listen(sync_engine, "connect", partial(_prepare_session, arrays, pooler))
    event.listen(sync_engine, "begin", partial(_prepare_transaction, arrays))


def is_pooled(connection: Connection) -> bool:
    """Whether the connection's session may be somebody else's after each transaction. On psycopg."""
    if (known := connection.info.get(IS_POOLED)) is None:
        driver: Any = connection.connection.dbapi_connection
        known = _server_process(driver) != driver.info.backend_pid and not _is_in_session_mode(driver)
        connection.info[IS_POOLED] = known
    return bool(known)


def prepare_nothing(driver: Any) -> None:
    """Have psycopg prepare no statement on this connection: another one's session would be asked for it."""
    driver.prepare_threshold = None


def _is_in_session_mode(driver: psycopg.Connection[Any]) -> bool:
    return driver.info.parameter_status("pgbouncer.pool_mode") == "session"


def _server_process(driver: psycopg.Connection[Any]) -> int:
    try:
        return int(postgresql.ask(driver, PROCESS.encode(), postgresql.PING_DEADLINE))
    except psycopg.Error as error:
        raise OperationalError(PROCESS, None, error) from error


def _prepare_session(arrays: _Arrays, pooler: Pooler, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    driver: Any = entry.driver_connection
    told = driver.info.backend_pid
    is_ours = pooler is Pooler.NONE or (pooler is Pooler.AUTO and _is_in_session_mode(driver))
    may_be_ours = told if pooler is Pooler.AUTO else None
    process, _ = _execute(connection, _PREPARE_SESSION, (*arrays, is_ours, may_be_ours))
    entry.info[IS_POOLED] = not is_ours and process != may_be_ours
    if entry.info[IS_POOLED]:
        prepare_nothing(driver)
    if process != told and _READ_ONLY not in driver.info.options:
        _execute(connection, _FORGET_READ_ONLY, ())


def _execute(connection: Any, sql: str, parameters: tuple[object, ...]) -> Any:
    """Execute in no transaction; the first row."""
    was_autocommit, connection.autocommit = connection.autocommit, True
    cursor = connection.cursor()
    try:
        cursor.execute(sql, parameters)
        return cursor.fetchone()
    finally:
        cursor.close()
        connection.autocommit = was_autocommit


def _prepare_transaction(arrays: _Arrays, connection: Connection) -> None:
    if connection.info.get(IS_POOLED) and not is_autocommit(connection):
        connection.exec_driver_sql(_PREPARE_TRANSACTION, arrays)
