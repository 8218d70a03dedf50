"""What is asked of the server itself, whatever the tables."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, text


def database_identity(connection: Connection) -> tuple[object, ...]:
    """The same for two ways to one database of one PostgreSQL cluster, and for its primary only."""
    sql = (
        "SELECT system_identifier, pg_catalog.current_database(), pg_catalog.pg_is_in_recovery() "
        "FROM pg_catalog.pg_control_system()"
    )
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
