"""Sessions of an operator that were ended before their time: whoever shows one of them is nobody."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.model import Outbox

# Stands for every session that began before the row: it is no sum of anything, as a session's id is.
_ALL = "all"


def end(connection: Connection, outbox: Outbox, session: str, ends_at: datetime) -> None:
    """Remember it for as long as it would have lasted, and forget those that are over."""
    table = outbox.records.ended_sessions
    connection.execute(delete(table).where(table.c.ends_at < DatabaseNow()))
    if not is_ended(connection, outbox, session, ends_at):
        connection.execute(insert(table).values(session=session, ends_at=ends_at))


def end_all(connection: Connection, outbox: Outbox, ends_at: datetime) -> None:
    """End each session that would last no longer than this, in one row."""
    table = outbox.records.ended_sessions
    connection.execute(delete(table).where(or_(table.c.session == _ALL, table.c.ends_at < DatabaseNow())))
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    # Who did so at the same moment has ended the same sessions.
    connection.execute(insert(table).values(session=_ALL, ends_at=ends_at).on_conflict_do_nothing())


def is_ended(connection: Connection, outbox: Outbox, session: str, ends_at: datetime) -> bool:
    c = outbox.records.ended_sessions.c
    ended = connection.execute(select(c.session, c.ends_at).where(c.session.in_((session, _ALL))))
    return any(row.session == session or row.ends_at >= ends_at for row in ended)
