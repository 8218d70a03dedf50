"""What is asked of the server itself, whatever the tables."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, text


def database_identity(connection: Connection) -> tuple[object, ...]:
    """The same for two ways to one database of one running PostgreSQL server.

    A standby, also one that was promoted, and a copy of a server's files have all else in common with it.
    """
    sql = "SELECT pg_catalog.current_database(), pg_catalog.pg_postmaster_start_time(), pg_catalog.pg_is_in_recovery()"
    return tuple(connection.execute(text(sql)).one())


def notification_queue_usage(connection: Connection) -> float | None:
    """How full PostgreSQL's queue of notifications is, from 0 to 1. None on other databases."""
    if connection.dialect.name != "postgresql":
        return None
    return float(connection.execute(text("SELECT pg_catalog.pg_notification_queue_usage()")).scalar_one())


def limit_time(connection: Connection, longest: timedelta) -> None:
    """Let PostgreSQL give up any statement of this transaction that takes longer."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL statement_timeout = {longest // timedelta(milliseconds=1)}"))


def limit_waits_for_locks(connection: Connection, longest: timedelta) -> None:
    """Let PostgreSQL give up each wait for a lock of this transaction that takes longer."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = {longest // timedelta(milliseconds=1)}"))
