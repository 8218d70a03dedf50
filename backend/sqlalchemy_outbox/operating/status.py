"""How the outbox stands, for a person or a chart: counts by state, ages, the gate, what is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import (
    Connection,
    func,
    or_,
    select,
)

from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil
from sqlalchemy_outbox.enqueueing import sequences
from sqlalchemy_outbox.erasure import erasures
from sqlalchemy_outbox.gate.closures import shut_since
from sqlalchemy_outbox.gate.row import GateStatus, read_gate
from sqlalchemy_outbox.housekeeping.backlog import count, count_open, oldest_seconds
from sqlalchemy_outbox.housekeeping.workers import KnownWorker, read_workers
from sqlalchemy_outbox.model import GateState, Outbox
from sqlalchemy_outbox.settling.waits import Wait, read_waits


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
    sequences that would give ids out again. `refused` are events of subjects that were forgotten, which are not among
    the failed ones, and `forgetting` is how many subjects are not erased yet.
    """

    pending: int
    claimed: int
    delivered: int
    failed: int
    oldest_pending_seconds: float | None
    gate: GateStatus
    waiting: tuple[Wait, ...] = ()
    behind: tuple[str, ...] = ()
    refused: int = 0
    forgetting: int = 0

    def as_json(self) -> dict[str, object]:
        told = asdict(self) | {"waiting": [wait.as_json() for wait in self.waiting], "gate": self.gate.as_json()}
        # Only of a database that was moved, and where somebody was forgotten.
        return {name: value for name, value in told.items() if value or name not in ("behind", "refused", "forgetting")}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the outbox is: `requests_last_minute` carried events. `workers` are those that live or have within a week."""

    pending: int
    claimed: int
    failed: int
    oldest_pending_seconds: float | None
    delivered_last_minute: int
    requests_last_minute: int
    gate: GateStatus
    waiting: tuple[Wait, ...] = ()
    workers: tuple[KnownWorker, ...] | None = None
    refused: int = 0
    forgetting: int = 0

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"waiting": [wait.as_json() for wait in self.waiting], "gate": self.gate.as_json()}


def read_status(connection: Connection, outbox: Outbox) -> Status:
    """Count the events by state and read the gate. Each count reads the partial index of its state, or the leases."""
    c = outbox.events.c
    claimed, refused = _count_claimed(connection, outbox), count(connection, outbox, outbox.is_refusal())
    return Status(
        pending=max(0, count_open(connection, outbox) - claimed),
        claimed=claimed,
        delivered=count(connection, outbox, c.processed_at.is_not(None)),
        failed=max(0, count(connection, outbox, c.failed_at.is_not(None)) - refused),
        oldest_pending_seconds=oldest_seconds(connection, outbox),
        gate=_gate_since(connection, outbox),
        waiting=tuple(read_waits(connection, outbox)),
        refused=refused,
        forgetting=erasures.count_open(connection, outbox),
        behind=tuple(str(found) for found in sequences.behind(connection, outbox)),
    )


def read_snapshot(connection: Connection, outbox: Outbox) -> Snapshot:
    """What changes by the second. Delivered events are counted for the last minute only."""
    c, deliveries = outbox.events.c, outbox.records.deliveries
    claimed, refused = _count_claimed(connection, outbox), count(connection, outbox, outbox.is_refusal())
    a_minute_ago, now = DatabaseNow(-60.0), DatabaseNow()
    # Up to now: what a clock that ran ahead has dated would count until then.
    requests = select(func.count()).select_from(deliveries).where(deliveries.c.started_at.between(a_minute_ago, now))
    return Snapshot(
        pending=max(0, count_open(connection, outbox) - claimed),
        claimed=claimed,
        failed=max(0, count(connection, outbox, c.failed_at.is_not(None)) - refused),
        oldest_pending_seconds=oldest_seconds(connection, outbox),
        delivered_last_minute=count(connection, outbox, c.processed_at.between(a_minute_ago, now)),
        requests_last_minute=connection.execute(requests).scalar_one(),
        gate=_gate_since(connection, outbox),
        waiting=tuple(read_waits(connection, outbox)),
        workers=tuple(read_workers(connection, outbox)),
        refused=refused,
        forgetting=erasures.count_open(connection, outbox),
    )


def _gate_since(connection: Connection, outbox: Outbox) -> GateStatus:
    gate = read_gate(connection, outbox)
    return gate if gate.state is GateState.OPEN else replace(gate, since=shut_since(connection, outbox))


def _count_claimed(connection: Connection, outbox: Outbox) -> int:
    count = func.sum(func.json_array_length(outbox.leases.c.event_ids))
    return int(connection.execute(select(count)).scalar_one() or 0)
