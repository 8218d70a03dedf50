"""SQLite as an outbox needs it: real transactions, writers in a queue, durable commits."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from sqlalchemy_outbox.database.driver import driver_connection

# How long a writer waits for another before the request fails with "database is locked".
BUSY_TIMEOUT = timedelta(seconds=5)


def configure_engine(engine: Engine | AsyncEngine) -> None:
    """Make every transaction of a SQLite engine begin as a writer; other engines are left as they are.

    Python's sqlite3 begins transactions at the first write by itself, and commits at the outermost RELEASE. And a
    transaction that reads first and writes later fails at once, without waiting, when another one wrote in between.
    Both end when SQLAlchemy says BEGIN IMMEDIATE.
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if sync_engine.dialect.name != "sqlite":
        return
    event.listen(sync_engine, "connect", _prepare_connection)
    event.listen(sync_engine, "begin", _begin_immediate)


def _prepare_connection(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT // timedelta(milliseconds=1)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    # What is deleted is overwritten, and not only forgotten: a person may be among it.
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def begin_if_needed(connection: Connection) -> None:
    """Begin the transaction that SQLAlchemy believes is open, so that the release of a savepoint cannot commit it."""
    if not driver_connection(connection).in_transaction:  # sqlite3's or aiosqlite's
        connection.exec_driver_sql("BEGIN IMMEDIATE")
