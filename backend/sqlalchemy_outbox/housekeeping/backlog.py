"""How much waits, and for how long."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, func, select

from sqlalchemy_outbox.clock import SecondsUntil
from sqlalchemy_outbox.model import Outbox

# The number of first open events of which the oldest is told: a clock that was wrong for a moment has dated some of
# them falsely.
_OLDEST_OF = 100


def read_backlog(connection: Connection, outbox: Outbox) -> tuple[float, int]:
    """For how many seconds the oldest event waits, and how many wait or are claimed."""
    return oldest_seconds(connection, outbox) or 0.0, count_open(connection, outbox)


def count(connection: Connection, outbox: Outbox, condition: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(outbox.events).where(condition)).scalar_one()


def count_open(connection: Connection, outbox: Outbox) -> int:
    """By the indexes of those in line and of those set apart."""
    return sum(count(connection, outbox, is_open) for is_open in (outbox.is_in_line(), outbox.is_set_apart()))


def oldest_seconds(connection: Connection, outbox: Outbox) -> float | None:
    """How long ago the oldest of the first open events was enqueued; if all seem to have been later than now, how much.

    Something waits, and 0 would hide it. What is set apart counts once it is released. Relies on ix_…_open and
    ix_…_backing_off.
    """
    c = outbox.events.c
    in_line = select(c.created_at).where(outbox.is_in_line()).order_by(c.id).limit(_OLDEST_OF)
    released = (
        select(c.created_at)
        .where(outbox.is_pushed_back(), c.waits_for.is_not(None), ~outbox.is_due_after_any_wait())
        .order_by(c.available_at)
        .limit(1)
    )
    found = (
        connection.execute(select(SecondsUntil(func.min(first.c.created_at)))).scalar_one()
        for first in (in_line.subquery("first"), released.subquery("first"))
    )
    # The longest ago; if none is, the farthest ahead.
    seconds = min((seconds for seconds in found if seconds is not None), default=None)
    return None if seconds is None else round(abs(seconds), 3)
