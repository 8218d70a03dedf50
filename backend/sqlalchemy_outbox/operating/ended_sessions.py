"""Sessions of an operator that were ended before their time: whoever shows one of them is nobody."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.model import Outbox


def end(connection: Connection, outbox: Outbox, session: str, ends_at: datetime) -> None:
    """Remember it for as long as it would have lasted, and forget those that are over."""
    table = outbox.records.ended_sessions
    connection.execute(delete(table).where(table.c.ends_at < DatabaseNow()))
    if not is_ended(connection, outbox, session):
        connection.execute(insert(table).values(session=session, ends_at=ends_at))


def is_ended(connection: Connection, outbox: Outbox, session: str) -> bool:
    c = outbox.records.ended_sessions.c
    return connection.execute(select(c.session).where(c.session == session)).one_or_none() is not None
