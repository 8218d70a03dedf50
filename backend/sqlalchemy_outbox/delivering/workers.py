"""Which workers live, and which event types they know: each says so of itself now and then."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, delete, insert, select, update

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.model import Outbox

# A deployment may take its time, between the end of the last worker of one release and the first of the next.
REMEMBERED_FOR = timedelta(hours=1)


def note_alive(connection: Connection, outbox: Outbox, worker_id: str, types: Sequence[str]) -> None:
    """Say that this worker lives, and forget those that have been silent for long."""
    c = outbox.workers.c
    seen = update(outbox.workers).where(c.id == worker_id).values(seen_at=DatabaseNow(), types=list(types))
    if connection.execute(seen).rowcount:
        return
    connection.execute(delete(outbox.workers).where(c.seen_at < DatabaseNow(-REMEMBERED_FOR.total_seconds())))
    connection.execute(insert(outbox.workers).values(id=worker_id, seen_at=DatabaseNow(), types=list(types)))


def known_types(connection: Connection, outbox: Outbox) -> frozenset[str]:
    """The event types that a worker knows which has been seen within REMEMBERED_FOR."""
    c = outbox.workers.c
    seen = select(c.types).where(c.seen_at >= DatabaseNow(-REMEMBERED_FOR.total_seconds()))
    return frozenset(type_ for types in connection.execute(seen).scalars() for type_ in types)
