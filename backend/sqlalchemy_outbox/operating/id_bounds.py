"""Between which ids events were enqueued in a span of time: found by looks at single rows, for no index knows of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, func, select

from sqlalchemy_outbox.model import Outbox

# Ids grow with time, but for clocks that were wrong and transactions that took long.
SLACK = timedelta(hours=1)
# Rows that decide one look together: a few that are falsely dated do not mislead it.
_LOOKED_AT = 9
# Where so few ids are left, to read them is cheaper than to look further.
_NEAR = 500
# Both databases' largest id has as many bits.
_LOOKS_MAX = 63


def id_bounds(
    connection: Connection, outbox: Outbox, since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """Conditions that hold for all events of the span, and for few others. Relies on the primary key."""
    if since is None and until is None:
        return []
    c = outbox.events.c
    low, high = connection.execute(select(func.min(c.id), func.max(c.id))).one()
    if low is None:
        return []
    bounds: list[ColumnElement[bool]] = []
    if since is not None:
        first, _ = _around(connection, outbox, _moved(since, -SLACK), low, high + 1)
        bounds.append(c.id >= first)
    if until is not None:
        _, last = _around(connection, outbox, _moved(until, SLACK), low, high + 1)
        bounds.append(c.id <= last)
    return bounds


def _around(connection: Connection, outbox: Outbox, instant: datetime, low: int, high: int) -> tuple[int, int]:
    """Ids near each other: events below the first were enqueued before the instant, those above the second after it."""
    for _ in range(_LOOKS_MAX):
        if high - low <= _NEAR:
            break
        middle = (low + high) // 2
        if _is_since(connection, outbox, middle, instant):
            high = middle
        else:
            low = middle
    return low, high


def _is_since(connection: Connection, outbox: Outbox, id_: int, instant: datetime) -> bool:
    """Whether most of the next events from this id on were enqueued at the instant or later."""
    c = outbox.events.c
    looked_at = connection.execute(select(c.created_at).where(c.id >= id_).order_by(c.id).limit(_LOOKED_AT))
    found = sorted(looked_at.scalars())
    return not found or found[len(found) // 2] >= instant


def _moved(instant: datetime, by: timedelta) -> datetime:
    """The year 1 and the year 9999 have no hour beyond them."""
    try:
        return instant + by
    except OverflowError:
        return instant
