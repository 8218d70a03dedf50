"""Figures by the minute, the hour and the day: what was enqueued, delivered, failed and requested, and what waits.

Each worker tallies what its claims came to and adds that to the rows of its minutes (see `Tally`); one worker of all
counts once a minute what was enqueued (see `count_enqueued`), by the events' ids.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnClause,
    Connection,
    Float,
    Integer,
    Text,
    column,
    delete,
    func,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from sqlalchemy_outbox.clock import DatabaseNow, Instant, StartOf, read_clock
from sqlalchemy_outbox.database.json_rows import as_parameter, rows_of
from sqlalchemy_outbox.gate import closures
from sqlalchemy_outbox.housekeeping.backlog import read_backlog
from sqlalchemy_outbox.model import Outbox, State
from sqlalchemy_outbox.settling.deliveries import Delivery
from sqlalchemy_outbox.settling.settlement import Settled

# Of all types together: requests, the lag, what waits; its row says that a worker lived.
ALL_TYPES = ""
# A type that no worker knows may be any text.
OTHER_TYPES = "other"
# What a row is about, in minutes. Whoever looks at a year reads days, and not most of the table.
MINUTE, HOUR, DAY = 1, 60, 24 * 60
KEPT = {MINUTE: timedelta(days=7), HOUR: timedelta(days=366), DAY: timedelta(days=366)}

_SPAN = timedelta(minutes=1)
# The longest between two signs of a worker that was alive meanwhile: beyond it, it may have slept, with its machine.
_LIVED_MAX = timedelta(minutes=2)
# The most minutes that a tally keeps while the database takes none: it forgets the oldest.
_MINUTES_MAX = 120
# How often one worker of all counts what was enqueued: once a minute, though it wakes a little early.
_COUNT_EVERY = timedelta(seconds=55)
# The most events that are counted at once, which takes some 50 ms.
_EVENTS_MAX = 50_000
# The most figures of a span that are forgotten at once.
_FORGET_MAX = 1000


@dataclass(slots=True)
class Counts:
    """Of a minute and an event type, or of all types."""

    enqueued: int = 0
    delivered: int = 0
    failed: int = 0
    answered: int = 0
    refused: int = 0
    throttled: int = 0
    unanswered: int = 0
    lag_seconds: float = 0.0
    waiting: int = 0

    def add(self, other: Counts) -> None:
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _HIGHEST:
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


_HIGHEST = ("lag_seconds", "waiting")
_ADDED = tuple(field.name for field in fields(Counts) if field.name not in _HIGHEST)

By = dict[tuple[datetime, str], Counts]
"""By the beginning of a minute, and the event type."""


class Tally:
    """What one worker's claims came to and is not written yet. Minutes are the database's."""

    def __init__(self, types: Collection[str]) -> None:
        self._types = frozenset(types)
        self._counts: By = {}
        # The database's clock when it was heard of last, and this machine's monotonic one.
        self._clocks: tuple[datetime, float] | None = None
        self._written_at: datetime | None = None
        self.events = 0
        self.requests = 0

    def note_settled(self, events: Iterable[Settled]) -> None:
        for event in events:
            self._clocks = (event.at, time.monotonic())
            self.events += 1
            counts = self._of(event.at, event.event.event_type)
            counts.delivered += event.settlement.state is State.DELIVERED
            counts.failed += event.settlement.state is State.FAILED

    def note_requests(self, deliveries: Iterable[Delivery]) -> None:
        """Those of which it is not known when they were, because nothing was settled yet, are not counted."""
        if self._clocks is None:
            return
        clock, monotonic = self._clocks
        for delivery in deliveries:
            self.requests += 1
            counts = self._of(clock - timedelta(seconds=max(0.0, monotonic - delivery.began_at)), ALL_TYPES)
            name = outcome_of(delivery.status)
            setattr(counts, name, getattr(counts, name) + 1)

    def take(self) -> By:
        """What is to be written; give it back if that fails."""
        taken, self._counts = self._counts, {}
        return taken

    def give_back(self, taken: By) -> None:
        for key, counts in taken.items():
            self._counts.setdefault(key, Counts()).add(counts)
        while len(self._counts) > _MINUTES_MAX * (len(self._types) + 2):
            del self._counts[min(self._counts)]

    def write(self, connection: Connection, outbox: Outbox, taken: By) -> None:
        """Add what was taken, and say of each minute since the last time that a worker lived."""
        now = read_clock(connection)
        self._clocks = (now, time.monotonic())
        lived = {(minute, ALL_TYPES): Counts() for minute in self._minutes_to(now)}
        add(connection, outbox, lived | taken)
        self._written_at = now

    def _minutes_to(self, now: datetime) -> list[datetime]:
        last = self._written_at
        first = now if last is None or not timedelta(0) <= now - last <= _LIVED_MAX else last
        minutes = [start_of_minute(first)]
        while minutes[-1] < start_of_minute(now):
            minutes.append(minutes[-1] + _SPAN)
        return minutes

    def _of(self, at: datetime, event_type: str) -> Counts:
        known = event_type if not event_type or event_type in self._types else OTHER_TYPES
        return self._counts.setdefault((start_of_minute(at), known), Counts())


def outcome_of(status: int | None) -> str:
    """The count that a request with such an answer belongs to."""
    if status is None or status >= 500:
        return "unanswered"
    if status == 429:
        return "throttled"
    return "refused" if status >= 400 else "answered"


def start_of_minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def add(connection: Connection, outbox: Outbox, counted: Mapping[tuple[datetime, str], Counts]) -> None:
    """Add these counts to their minutes, hours and days, and raise what is the highest."""
    hours: By = {}
    days: By = {}
    for (minute, event_type), counts in counted.items():
        hour = minute.astimezone(UTC).replace(minute=0)
        hours.setdefault((hour, event_type), Counts()).add(counts)
        days.setdefault((hour.replace(hour=0), event_type), Counts()).add(counts)
    spans = ((MINUTE, counted), (HOUR, hours), (DAY, days))
    rows = [
        {"minutes": minutes, "at": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        | {"event_type": event_type, **dict(zip(_COUNTED, astuple(counts), strict=True))}
        for minutes, of_span in spans
        for (at, event_type), counts in of_span.items()
    ]
    if rows:
        connection.execute(_add(outbox, connection.dialect.name), {"rows": as_parameter(rows)})


def count_enqueued(connection: Connection, outbox: Outbox, types: Collection[str], settled_to: int) -> None:
    """Count what was enqueued since it was counted last, the lag, and what waits; and forget what is kept no longer.

    Nothing where another worker is at it, or was within the minute. No id up to `settled_to` may still appear. Relies
    on the primary key of the events.
    """
    counted = outbox.records.counted
    turn = select(counted.c.up_to, counted.c.at > DatabaseNow(-_COUNT_EVERY.total_seconds()))
    row = connection.execute(turn.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        _begin(connection, outbox)
        return
    up_to, is_recent = row
    if is_recent:
        return
    enqueued, reached, is_all = _enqueued(connection, outbox, frozenset(types), up_to, settled_to)
    minute = start_of_minute(read_clock(connection))
    lag, waiting = read_backlog(connection, outbox)
    enqueued.setdefault((minute, ALL_TYPES), Counts()).add(Counts(lag_seconds=lag, waiting=waiting))
    add(connection, outbox, enqueued)
    # What is left is counted at the next chance.
    at = DatabaseNow() if is_all else DatabaseNow(-_COUNT_EVERY.total_seconds())
    connection.execute(update(counted).values(up_to=reached, at=at))
    _forget(connection, outbox)


def _begin(connection: Connection, outbox: Outbox) -> None:
    insert_ = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    first = insert_(outbox.records.counted).values(id=1, up_to=0, at=DatabaseNow(-_COUNT_EVERY.total_seconds()))
    connection.execute(first.on_conflict_do_nothing())


def _enqueued(
    connection: Connection, outbox: Outbox, types: frozenset[str], up_to: int, settled_to: int
) -> tuple[By, int, bool]:
    """What was enqueued behind an id, up to which one that is, and whether it is all."""
    c = outbox.events.c
    some = (
        select(c.id, c.event_type, c.created_at, c.failed_at)
        .where(c.id > up_to, c.id <= settled_to)
        .order_by(c.id)
        .limit(_EVENTS_MAX)
        .subquery("some")
    )
    minute = StartOf(some.c.created_at, 60)
    # What failed as it was enqueued was in no worker's hands.
    born_failed = func.count().filter(some.c.failed_at <= some.c.created_at)
    statement = select(minute, some.c.event_type, func.count(), born_failed, func.max(some.c.id))
    by: By = {}
    reached, total = up_to, 0
    for seconds, event_type, count, failed, last in connection.execute(statement.group_by(minute, some.c.event_type)):
        key = (datetime.fromtimestamp(seconds, UTC), event_type if event_type in types else OTHER_TYPES)
        by.setdefault(key, Counts()).add(Counts(enqueued=count, failed=failed))
        reached, total = max(reached, last), total + count
    return by, reached, total < _EVENTS_MAX


def _forget(connection: Connection, outbox: Outbox) -> None:
    """Delete figures that are kept no longer, and those that only a clock that ran ahead can have dated."""
    figures = outbox.records.figures
    c = figures.c
    for minutes, kept in KEPT.items():
        is_of_span, oldest_kept = c.minutes == minutes, DatabaseNow(-kept.total_seconds())
        some = select(c.at).where(is_of_span, c.at < oldest_kept).order_by(c.at).offset(_FORGET_MAX).limit(1)
        is_old = c.at < func.coalesce(some.scalar_subquery(), oldest_kept, type_=Instant())
        for is_forgotten in (is_old, c.at > DatabaseNow(kept.total_seconds())):
            connection.execute(delete(figures).where(is_of_span, is_forgotten))
    closures.forget_closures(connection, outbox, KEPT[HOUR], _FORGET_MAX)


_COUNTED = tuple(field.name for field in fields(Counts))
_ROW: tuple[ColumnClause[Any], ...] = (
    column("minutes", Integer),
    column("at", Instant),
    column("event_type", Text),
    *(column(name, Float if name == "lag_seconds" else BigInteger) for name in _COUNTED),
)


@lru_cache(maxsize=16)
def _add(outbox: Outbox, dialect_name: str) -> Any:
    figures = outbox.records.figures
    rows = rows_of("rows", _ROW, dialect_name)
    names = [of_row.name for of_row in _ROW]
    # In one order, so that two workers wait for each other and not both.
    ordered = select(*(rows.c[name] for name in names)).where(true()).order_by(*(rows.c[name] for name in names[:3]))
    insert_ = postgresql.insert if dialect_name == "postgresql" else sqlite.insert
    statement = insert_(figures).from_select(names, ordered)
    highest = func.greatest if dialect_name == "postgresql" else func.max
    changed = {name: figures.c[name] + statement.excluded[name] for name in _ADDED}
    changed |= {name: highest(figures.c[name], statement.excluded[name]) for name in _HIGHEST}
    return statement.on_conflict_do_update(index_elements=names[:3], set_=changed)
