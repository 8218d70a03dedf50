"""The watermark: up to it every id is visible or will never be. And the first open id, below which no event is open.

Transactions commit in another order than they take their ids, so an id that is not there yet may still appear. Whoever
enqueues holds a lock on the table from before it takes its first id until it has ended: once everybody who held that
lock at a moment has let go of it, every id up to the highest one of that moment is there or will never be.
"""

from __future__ import annotations

import time
from datetime import timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Select,
    Text,
    bindparam,
    cast,
    column,
    func,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import OID, REGCLASS

from sqlalchemy_outbox.database.driver import qualified_name
from sqlalchemy_outbox.model import Outbox

# SQLite has one writer at a time: ids appear in their order.
_EVERYTHING = 2**62
# How late an event below the first open id is found that came by other means than enqueue and retry, a restore say.
FIRST_OPEN_ANEW_EVERY = timedelta(minutes=1)


class Watermark:
    """`settled_to`: no id up to it can still appear. `first_open_id`: no event below it is open, with two exceptions.

    Those are events that a person retried, and events that are set apart.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._settles_next: tuple[int, frozenset[str]] = (0, frozenset())
        self._first_open_anew_at = float("-inf")
        self.settled_to = 0
        self.first_open_id = 0

    def refresh(self, connection: Connection) -> None:
        if connection.dialect.name != "postgresql":
            self.settled_to = _EVERYTHING
            return
        is_first_open_anew = time.monotonic() - self._first_open_anew_at > FIRST_OPEN_ANEW_EVERY.total_seconds()
        parameters = {
            "first_open_id": 0 if is_first_open_anew else self.first_open_id,
            "name": qualified_name(connection, self._outbox.events),
        }
        row = connection.execute(_read(self._outbox), parameters).one()
        if is_first_open_anew:
            self._first_open_anew_at = time.monotonic()
        # The query may not have seen what was settled after it had begun, so this goes by what was settled before.
        self.first_open_id = min(id_ for id_ in (row.first_open_id, self.settled_to + 1) if id_ is not None)
        self._settle(row.last_id or 0, frozenset(row.writers or ()))

    def _settle(self, last_id: int, writers: frozenset[str]) -> None:
        settles_to, awaited = self._settles_next
        if not writers:
            self.settled_to = last_id
        elif not awaited & writers:
            self.settled_to = settles_to
        else:
            return
        self._settles_next = (last_id, writers)


def writers(connection: Connection, outbox: Outbox) -> frozenset[str]:
    """The transactions that may have written events and have not ended; none on SQLite, whose writers take turns."""
    if connection.dialect.name != "postgresql":
        return frozenset()
    parameters = {"name": qualified_name(connection, outbox.events)}
    return frozenset(connection.execute(_writers(), parameters).scalar_one() or ())


@lru_cache(maxsize=16)
def _read(outbox: Outbox) -> Select[Any]:
    """Relies on the primary key and ix_…_open."""
    c = outbox.events.c
    first_open = select(func.min(c.id)).where(outbox.is_in_line(), c.id >= bindparam("first_open_id", type_=BigInteger))
    # The highest id comes from a snapshot that is older than what is read of the locks.
    last = select(func.max(c.id))
    return select(
        last.scalar_subquery().label("last_id"),
        first_open.scalar_subquery().label("first_open_id"),
        _writers().scalar_subquery().label("writers"),
    )


@lru_cache(maxsize=1)
def _writers() -> Select[Any]:
    """Binds the table's `name`."""
    locks = table(
        "pg_locks",
        column("database", OID),
        column("relation", OID),
        column("mode", Text),
        column("granted", Boolean),
        column("virtualtransaction", Text),
        schema="pg_catalog",
    )
    databases = table("pg_database", column("oid", OID), column("datname", Text), schema="pg_catalog")
    ours = select(databases.c.oid).where(databases.c.datname == func.current_database()).scalar_subquery()
    return select(func.array_agg(locks.c.virtualtransaction)).where(
        locks.c.database == ours,
        locks.c.relation == cast(cast(bindparam("name", type_=Text), REGCLASS), OID),
        locks.c.mode == "RowExclusiveLock",
        locks.c.granted,
    )
