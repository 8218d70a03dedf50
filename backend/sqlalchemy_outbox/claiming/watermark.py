"""What a worker may take as past: ids whose transactions have ended, and ids below which no event is open.

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
# Whatever was put below the floor by other means than enqueue and retry, a restored backup say, is found this late.
FLOOR_ANEW_EVERY = timedelta(minutes=1)


class Horizon:
    """`settled_to`: no id up to it can still appear. `floor`: no event below it is open, save for some.

    Those are the ones that a person retried, and what is set apart.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._settles_next: tuple[int, frozenset[str]] = (0, frozenset())
        self._floor_anew_at = float("-inf")
        self.settled_to = 0
        self.floor = 0

    def refresh(self, connection: Connection) -> None:
        if connection.dialect.name != "postgresql":
            self.settled_to = _EVERYTHING
            return
        is_floor_anew = time.monotonic() - self._floor_anew_at > FLOOR_ANEW_EVERY.total_seconds()
        parameters = {
            "floor": 0 if is_floor_anew else self.floor,
            "name": qualified_name(connection, self._outbox.events),
        }
        row = connection.execute(_look(self._outbox), parameters).one()
        if is_floor_anew:
            self._floor_anew_at = time.monotonic()
        # The query may not have seen what was settled only after it had begun, so the floor goes by the time before.
        self.floor = min(it for it in (row.first_open_id, self.settled_to + 1) if it is not None)
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


@lru_cache(maxsize=16)
def _look(outbox: Outbox) -> Select[Any]:
    """Relies on the primary key and ix_…_open."""
    c = outbox.events.c
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
    writers = select(func.array_agg(locks.c.virtualtransaction)).where(
        locks.c.database == ours,
        locks.c.relation == cast(cast(bindparam("name", type_=Text), REGCLASS), OID),
        locks.c.mode == "RowExclusiveLock",
        locks.c.granted,
    )
    first_open = select(func.min(c.id)).where(outbox.is_in_line(), c.id >= bindparam("floor", type_=BigInteger))
    # The highest id comes from a snapshot that is older than the look at the locks.
    last = select(func.max(c.id))
    return select(
        last.scalar_subquery().label("last_id"),
        first_open.scalar_subquery().label("first_open_id"),
        writers.scalar_subquery().label("writers"),
    )
