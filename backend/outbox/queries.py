"""The statements by which a worker and an operator see how things are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    false,
    func,
    or_,
    select,
    text,
)

from outbox import sequences
from outbox.clock import DatabaseNow, SecondsUntil
from outbox.gate_row import GateStatus, read_gate
from outbox.model import Event, Outbox, as_event, event_columns
from outbox.planning import looked_up
from outbox.waits import Wait, read_waits

# Those that a person is shown a comparison with.
_DELIVERED_MAX = 1000
# Of so many first open events the oldest is told: a clock that was wrong for a moment has dated some of them falsely.
_OLDEST_OF = 100


def delivered_of(connection: Connection, outbox: Outbox, subject: str) -> list[Event]:
    """The subject's delivered events, in order; at most the newest thousand.

    A dry run has delivered nothing. Relies on ix_…_delivered_subject.
    """
    c = outbox.events.c
    statement = (
        select(*event_columns(outbox))
        .where(c.subject == subject, c.processed_at.is_not(None), c.dry_run.is_(false()))
        .order_by(c.id.desc())
        .limit(_DELIVERED_MAX)
    )
    return [as_event(row) for row in reversed(connection.execute(statement).all())]


class ComesAgain(NamedTuple):
    """The first event of a subject, due again after it was pushed back."""

    id: int
    subject: str
    attempt_count: int


def due_again(connection: Connection, outbox: Outbox, types: Sequence[str], limit: int) -> list[ComesAgain]:
    """Up to `limit` subjects' first events, of these types, that were pushed back and are due, the longest due first.

    Relies on ix_…_backing_off, and for each on ix_…_open_subject.
    """
    c, earlier = outbox.events.c, outbox.events.alias("earlier")
    has_earlier = select(earlier.c.id).where(
        earlier.c.subject == c.subject, earlier.c.id < c.id, outbox.is_open_of_subject(earlier)
    )
    statement = (
        select(c.id, c.subject, c.attempt_count)
        .where(
            outbox.is_pushed_back(),
            c.claim_token.is_(None),
            c.available_at <= DatabaseNow(),
            c.event_type.in_(types),
            ~looked_up(has_earlier, outbox.events),
        )
        .order_by(c.available_at)
        .limit(limit)
    )
    return [ComesAgain._make(row) for row in connection.execute(statement)]


def seconds_to_next_again(connection: Connection, outbox: Outbox) -> float | None:
    """Seconds until the first event that was pushed back is due, negative when it is; None when there is none.

    Relies on ix_…_backing_off.
    """
    c = outbox.events.c
    first = select(func.min(c.available_at)).where(outbox.is_pushed_back(), c.claim_token.is_(None)).scalar_subquery()
    seconds: float | None = connection.execute(select(SecondsUntil(first))).scalar_one()
    return seconds


def seconds_to_lease_end(connection: Connection, outbox: Outbox, since: timedelta) -> float | None:
    """Seconds until the first lease runs out, or since it did if that was within the time `since`; None without any.

    Relies on ix_…_leases_until.
    """
    until = outbox.leases.c.until
    first = select(func.min(until)).where(until >= DatabaseNow(-since.total_seconds())).scalar_subquery()
    seconds: float | None = connection.execute(select(SecondsUntil(first))).scalar_one()
    return seconds


def longest_due_seconds(connection: Connection, outbox: Outbox, types: Sequence[str]) -> float:
    """For how long the pending event of these types that has been due the longest could have been claimed; else 0.

    Where that lies ahead, by how far: it was enqueued by a wrong clock, and nobody knows when.
    """
    c = outbox.events.c
    is_due = or_(c.available_at <= DatabaseNow(), c.available_at <= c.created_at)
    is_claimable = (c.claim_token.is_(None), is_due, c.event_type.in_(types))
    first = (
        connection.execute(select(SecondsUntil(func.min(c.available_at))).where(is_pending, *is_claimable)).scalar_one()
        for is_pending in (outbox.is_in_line(), outbox.is_set_apart())
    )
    return max(abs(seconds or 0.0) for seconds in first)


@dataclass(frozen=True, slots=True)
class Status:
    """What an operator asks first. Counts are events; the age is that of the oldest one still pending or claimed.

    Where all of them were enqueued by a clock that ran ahead, the age is how far ahead it ran.
    What is set apart is pending and is in `waiting`; the age is that of others. `behind` names the
    sequences that would give ids out again.
    """

    pending: int
    claimed: int
    delivered: int
    failed: int
    oldest_pending_seconds: float | None
    gate: GateStatus
    waiting: tuple[Wait, ...] = ()
    behind: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        told = asdict(self) | {"waiting": [wait.as_json() for wait in self.waiting], "gate": self.gate.as_json()}
        if not told["behind"]:
            # Only of a database that was moved.
            del told["behind"]
        return told


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the outbox moves, for a chart: `requests_last_minute` carried events."""

    pending: int
    claimed: int
    failed: int
    oldest_pending_seconds: float | None
    delivered_last_minute: int
    requests_last_minute: int
    gate: GateStatus
    waiting: tuple[Wait, ...] = ()

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"waiting": [wait.as_json() for wait in self.waiting], "gate": self.gate.as_json()}


def read_status(connection: Connection, outbox: Outbox) -> Status:
    """Count the events by state and read the gate. Each count reads the partial index of its state, or the leases."""
    c = outbox.events.c
    claimed = _count_claimed(connection, outbox)
    return Status(
        pending=max(0, _count_open(connection, outbox) - claimed),
        claimed=claimed,
        delivered=_count(connection, outbox, c.processed_at.is_not(None)),
        failed=_count(connection, outbox, c.failed_at.is_not(None)),
        oldest_pending_seconds=_oldest_seconds(connection, outbox),
        gate=read_gate(connection, outbox),
        waiting=tuple(read_waits(connection, outbox)),
        behind=tuple(str(found) for found in sequences.behind(connection, outbox)),
    )


def read_pulse(connection: Connection, outbox: Outbox) -> Pulse:
    """What changes by the second. Delivered events are counted for the last minute only."""
    c, deliveries = outbox.events.c, outbox.records.deliveries
    claimed = _count_claimed(connection, outbox)
    a_minute_ago, now = DatabaseNow(-60.0), DatabaseNow()
    # Up to now: what a clock that ran ahead has dated would count until then.
    requests = select(func.count()).select_from(deliveries).where(deliveries.c.started_at.between(a_minute_ago, now))
    return Pulse(
        pending=max(0, _count_open(connection, outbox) - claimed),
        claimed=claimed,
        failed=_count(connection, outbox, c.failed_at.is_not(None)),
        oldest_pending_seconds=_oldest_seconds(connection, outbox),
        delivered_last_minute=_count(connection, outbox, c.processed_at.between(a_minute_ago, now)),
        requests_last_minute=connection.execute(requests).scalar_one(),
        gate=read_gate(connection, outbox),
        waiting=tuple(read_waits(connection, outbox)),
    )


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


def ids_of(connection: Connection, outbox: Outbox, event_ids: Collection[UUID]) -> list[int]:
    """The `id` of each of these events that exists, in order. Relies on uq_…_event_id."""
    c = outbox.events.c
    return list(connection.execute(select(c.id).where(c.event_id.in_(event_ids)).order_by(c.id)).scalars())


def _count(connection: Connection, outbox: Outbox, condition: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(outbox.events).where(condition)).scalar_one()


def _count_open(connection: Connection, outbox: Outbox) -> int:
    """By the indexes of those in line and of those set apart."""
    return sum(_count(connection, outbox, is_open) for is_open in (outbox.is_in_line(), outbox.is_set_apart()))


def _count_claimed(connection: Connection, outbox: Outbox) -> int:
    count = func.sum(func.json_array_length(outbox.leases.c.event_ids))
    return int(connection.execute(select(count)).scalar_one() or 0)


def _oldest_seconds(connection: Connection, outbox: Outbox) -> float | None:
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
