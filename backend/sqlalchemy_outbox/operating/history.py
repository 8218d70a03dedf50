"""All that is known of one event: its requests and what they came to, and what people did to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Table, func, select

from sqlalchemy_outbox.model import Event, Outbox, as_event, event_columns
from sqlalchemy_outbox.operating.audit import AuditEntry, read_audit_of
from sqlalchemy_outbox.operating.search import EventSummary, as_summary
from sqlalchemy_outbox.operating.turn import Turn, read_turn

# An event that waits for weeks behind a hold is probed thousands of times; a person reads the last ones.
DELIVERIES_MAX = 200


@dataclass(frozen=True, slots=True)
class KeptDelivery:
    """A request that carried the event: `outcome` for all its `events`, `outcome_for_event` for this one."""

    id: int
    started_at: datetime
    duration_ms: int
    endpoint: str
    events: int
    status: int | None
    category: str | None
    correlation_id: str | None
    outcome: str
    outcome_for_event: str
    error: str | None
    traceparent: str | None

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"started_at": self.started_at.isoformat()}


@dataclass(frozen=True, slots=True)
class Discarded:
    at: datetime
    by: str
    reason: str

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class History:
    """An event, the last requests that carried it, in order, and the audit's entries about it, in order.

    `delivery_count` counts all those requests; `waits_for` is the key of what a pending event is set apart for. `turn`
    is what happens next to a pending event.
    """

    summary: EventSummary
    event: Event
    discarded: Discarded | None
    deliveries: list[KeptDelivery]
    delivery_count: int
    audit: list[AuditEntry]
    waits_for: str | None = None
    turn: Turn | None = None


def read_history(connection: Connection, outbox: Outbox, event_id: UUID) -> History | None:
    """Relies on uq_…_event_id, uq_…_discarded_event_id, and the primary keys of the links."""
    row = _row_of(connection, outbox.events, event_id)
    discarded = None
    if row is None:
        row = _row_of(connection, outbox.records.discarded, event_id)
        if row is None:
            return None
        discarded = Discarded(row.discarded_at, row.discarded_by, row.reason)
    summary, event = as_summary(row), as_event([getattr(row, column.name) for column in event_columns(outbox)])
    return History(
        summary=summary,
        event=event,
        discarded=discarded,
        deliveries=_read_deliveries(connection, outbox, event.id),
        delivery_count=_count_deliveries(connection, outbox, event.id),
        audit=read_audit_of(connection, outbox, event.id),
        waits_for=summary.waits_for if summary.is_set_apart else None,
        turn=None if discarded else read_turn(connection, outbox, summary),
    )


def _row_of(connection: Connection, table: Table, event_id: UUID) -> Row[Any] | None:
    return connection.execute(select(table).where(table.c.event_id == event_id)).one_or_none()


def _read_deliveries(connection: Connection, outbox: Outbox, id_: int) -> list[KeptDelivery]:
    deliveries, links = outbox.records.deliveries, outbox.records.delivery_events
    statement = (
        select(deliveries, links.c.outcome.label("outcome_for_event"))
        .join(links, links.c.delivery_id == deliveries.c.id)
        .where(links.c.event_id == id_)
        .order_by(links.c.delivery_id.desc())
        .limit(DELIVERIES_MAX)
    )
    kept = [KeptDelivery(**row._mapping) for row in connection.execute(statement)]
    return sorted(kept, key=lambda it: (it.started_at, it.id))


def _count_deliveries(connection: Connection, outbox: Outbox, id_: int) -> int:
    links = outbox.records.delivery_events
    statement = select(func.count()).select_from(links).where(links.c.event_id == id_)
    return connection.execute(statement).scalar_one()
