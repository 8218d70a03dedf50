"""What happened over a range of time, for a chart: figures by equal spans, the gate's closures, and marks.

A span in which no worker lived is a gap: nothing is known of it but what was enqueued.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Row, func, select

from sqlalchemy_outbox.clock import DatabaseNow, StartOf, read_clock
from sqlalchemy_outbox.gate.closures import Closure, read_closures
from sqlalchemy_outbox.housekeeping import figures
from sqlalchemy_outbox.housekeeping.figures import ALL_TYPES, Counts
from sqlalchemy_outbox.housekeeping.workers import KnownWorker, read_workers
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.operating.audit import read_audit

_ACTS_MAX = 100


class Range(StrEnum):
    """How far back."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"
    YEAR = "1y"

    @property
    def length(self) -> timedelta:
        return _SPANS[self][0]

    @property
    def span(self) -> timedelta:
        """How long the time is that a point is about."""
        return _SPANS[self][1]

    @property
    def minutes(self) -> int:
        """By which rows of the figures it is read."""
        return _SPANS[self][2]


_SPANS = {
    Range.HOUR: (timedelta(hours=1), timedelta(minutes=1), figures.MINUTE),
    Range.DAY: (timedelta(hours=24), timedelta(minutes=10), figures.MINUTE),
    Range.WEEK: (timedelta(days=7), timedelta(hours=1), figures.HOUR),
    Range.MONTH: (timedelta(days=30), timedelta(hours=6), figures.HOUR),
    Range.YEAR: (timedelta(days=365), timedelta(days=1), figures.DAY),
}


@dataclass(frozen=True, slots=True)
class Point:
    """A span that begins at `at`; `counts` are those of all types together, None where no worker lived in it.

    `by_type` has enqueued, delivered and failed. `lived` is the share of the span in which a worker is known to have
    lived, so that rates can be told; it is 1 where that is not kept by the minute.
    """

    at: datetime
    counts: Counts | None
    by_type: dict[str, Counts]
    lived: float

    @property
    def enqueued(self) -> int:
        return sum(counts.enqueued for counts in self.by_type.values())

    def as_json(self) -> dict[str, object]:
        told: dict[str, object] = {"at": self.at.isoformat(), "enqueued": self.enqueued}
        known = dict.fromkeys(_COUNTED) if self.counts is None else asdict(self.counts)
        by_type = {
            name: {key: getattr(counts, key) for key in ("enqueued", "delivered", "failed")}
            for name, counts in sorted(self.by_type.items())
        }
        return (
            told
            | {key: value for key, value in known.items() if key != "enqueued"}
            | {
                "lived": round(self.lived, 4),
                "by_type": by_type,
            }
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """A deploy, or what a person did, at an instant. `kind` is `deploy`, or the action of the audit."""

    at: datetime
    kind: str
    words: str

    def as_json(self) -> dict[str, str]:
        return {"at": self.at.isoformat(), "kind": self.kind, "words": self.words}


@dataclass(frozen=True, slots=True)
class Series:
    """Points of equal spans from `since` to `until`, the last one not over yet."""

    range: Range
    since: datetime
    until: datetime
    points: list[Point]
    closures: list[Closure]
    marks: list[Mark]

    def closures_in(self, point: Point) -> list[Closure]:
        """Those that shut the gate at some time of the point's span."""
        ends_at = point.at + self.range.span
        return [
            closure
            for closure in self.closures
            if closure.began_at < ends_at and (closure.ended_at is None or closure.ended_at > point.at)
        ]

    def marks_in(self, point: Point) -> list[Mark]:
        return [mark for mark in self.marks if point.at <= mark.at < point.at + self.range.span]

    def as_json(self) -> dict[str, object]:
        return {
            "range": self.range.value,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "span_seconds": int(self.range.span.total_seconds()),
            "points": [point.as_json() for point in self.points],
            "closures": [closure.as_json() for closure in self.closures],
            "marks": [mark.as_json() for mark in self.marks],
        }


def read_series(connection: Connection, outbox: Outbox, range_: Range) -> Series:
    """Relies on the primary keys of the figures, of the closures, and of the audit."""
    until = read_clock(connection)
    seconds = int(range_.span.total_seconds())
    first = int((until - range_.length).timestamp()) // seconds * seconds + seconds
    since = datetime.fromtimestamp(first, UTC)
    starts = range(first, int(until.timestamp()) + 1, seconds)
    rows = _read_rows(connection, outbox, range_, since)
    return Series(
        range=range_,
        since=since,
        until=until,
        points=list(_points(range_, starts, rows)),
        closures=read_closures(connection, outbox, since),
        marks=_marks(connection, outbox, since, until),
    )


def deploys(workers: Sequence[KnownWorker]) -> Iterator[Mark]:
    """When a worker began to be of another version than the one that had begun before it."""
    begun = sorted((worker for worker in workers if worker.started_at), key=lambda it: (it.started_at, it.id))
    for before, worker in pairwise(begun):
        if worker.version != before.version and worker.started_at is not None:
            yield Mark(
                worker.started_at, "deploy", f"{worker.version or 'unknown'} after {before.version or 'unknown'}"
            )


_COUNTED = tuple(field.name for field in fields(Counts))


def _read_rows(connection: Connection, outbox: Outbox, range_: Range, since: datetime) -> list[Row[Any]]:
    c = outbox.records.figures.c
    start = StartOf(c.at, int(range_.span.total_seconds())).label("start")
    highest = ("lag_seconds", "waiting")
    counted = [(func.max if name in highest else func.sum)(c[name]).label(name) for name in _COUNTED]
    statement = (
        select(start, c.event_type, func.count().label("rows"), *counted)
        .where(c.minutes == range_.minutes, c.at >= since, c.at <= DatabaseNow())
        .group_by(start, c.event_type)
    )
    return list(connection.execute(statement).all())


def _points(range_: Range, starts: range, rows: Sequence[Row[Any]]) -> Iterator[Point]:
    found: dict[int, dict[str, Counts]] = {}
    lived = {row.start: row.rows for row in rows if row.event_type == ALL_TYPES}
    rows_max = range_.span / timedelta(minutes=range_.minutes)
    for row in rows:
        found.setdefault(row.start, {})[row.event_type] = Counts(*(_number(getattr(row, name)) for name in _COUNTED))
    for start in starts:
        by_type = found.get(start, {})
        all_types = by_type.pop(ALL_TYPES, None)
        if all_types is not None:
            for counts in by_type.values():
                all_types.enqueued += counts.enqueued
                all_types.delivered += counts.delivered
                all_types.failed += counts.failed
        share = lived.get(start, 0) / rows_max if range_.minutes == figures.MINUTE else float(all_types is not None)
        yield Point(datetime.fromtimestamp(start, UTC), all_types, by_type, share)


def _number(value: Any) -> Any:
    """PostgreSQL sums whole numbers into decimal ones."""
    return value if isinstance(value, float) else int(value)


def _marks(connection: Connection, outbox: Outbox, since: datetime, until: datetime) -> list[Mark]:
    entries = read_audit(connection, outbox, None, _ACTS_MAX)
    acts = [Mark(entry.at, entry.action, _words(entry.by, entry.reason, entry.count)) for entry in entries]
    marks = [*acts, *deploys(read_workers(connection, outbox))]
    return sorted((mark for mark in marks if since <= mark.at <= until), key=lambda mark: mark.at)


def _words(by: str, reason: str | None, count: int) -> str:
    words = f"by {by.partition(':')[2] or by}"
    if count:
        words += f", {count:,} event{'' if count == 1 else 's'}"
    return f"{words}: {reason}" if reason else words
