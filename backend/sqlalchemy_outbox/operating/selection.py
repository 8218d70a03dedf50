"""Which events a person means: by id, or by what they have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Connection, FromClause, column, false, func, select

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.database.json_rows import rows_of
from sqlalchemy_outbox.database.plan_hints import is_one_of
from sqlalchemy_outbox.model import ERASURE, EventId, Outbox, State


@dataclass(frozen=True, slots=True)
class EventIds:
    """The events of these `event_id`s."""

    ids: frozenset[UUID]

    def as_json(self) -> dict[str, object]:
        return {"event_ids": sorted(map(str, self.ids))}


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Events that have all of this in common; what is None may be anything.

    `older_than` is since they were enqueued; they were so at `since` or later, and before `until`. `reason` is that of
    a failure, as `failure_reasons` names it.
    """

    state: State | None = None
    event_type: str | None = None
    subject: str | None = None
    older_than: timedelta | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def as_json(self) -> dict[str, object]:
        """What it asks for, by name."""
        asked = {
            "state": None if self.state is None else self.state.value,
            "event_type": self.event_type,
            "subject": self.subject,
            "older_than_seconds": None if self.older_than is None else self.older_than.total_seconds(),
            "reason": self.reason,
            "since": _in_utc(self.since),
            "until": _in_utc(self.until),
        }
        return {name: value for name, value in asked.items() if value is not None}

    def conditions(self, outbox: Outbox) -> list[ColumnElement[bool]]:
        """All but the state."""
        return [*self.indexed(outbox), *self.compared(outbox.events)]

    def indexed(self, outbox: Outbox) -> list[ColumnElement[bool]]:
        """What an index finds, together with the state."""
        c = outbox.events.c
        conditions: list[ColumnElement[bool]] = []
        if self.subject is not None:
            conditions.append(c.subject == self.subject)
        if self.reason is not None:
            # The empty reason is that of events which were failed by a statement that gave none.
            conditions.append(c.failure_reason == self.reason if self.reason else c.failure_reason.is_(None))
        return conditions

    def compared(self, events: FromClause) -> list[ColumnElement[bool]]:
        """What is found by looking at each."""
        c = events.c
        conditions: list[ColumnElement[bool]] = []
        if self.event_type is not None:
            conditions.append(c.event_type == self.event_type)
        if self.older_than is not None:
            conditions.append(c.created_at <= DatabaseNow(-self.older_than.total_seconds()))
        if self.since is not None:
            conditions.append(c.created_at >= self.since)
        if self.until is not None:
            conditions.append(c.created_at < self.until)
        return conditions


Selection = EventIds | EventFilter


def is_of(selection: EventIds, event_id: Column[Any], dialect_name: str) -> ColumnElement[bool]:
    """Binds `event_ids`: see `parameters`."""
    ids = rows_of("event_ids", (column("event_id", EventId),), dialect_name)
    return is_one_of(event_id, select(ids.c.event_id), dialect_name)


def parameters(selection: Selection) -> dict[str, object]:
    if isinstance(selection, EventFilter):
        return {}
    return {"event_ids": json.dumps([{"event_id": str(id_)} for id_ in selection.ids])}


def failed(outbox: Outbox, selection: Selection, dialect_name: str) -> list[ColumnElement[bool]]:
    """The selection's events that have failed: none, if it asks for another state. Refusals nobody can mend."""
    is_failed = outbox.is_failure()
    match selection:
        case EventIds():
            return [is_failed, is_of(selection, outbox.events.c.event_id, dialect_name)]
        case EventFilter(state) if state not in (None, State.FAILED):
            return [false()]
        case EventFilter():
            return [is_failed, *selection.conditions(outbox)]


def count_failed(connection: Connection, outbox: Outbox, selection: Selection, types: Sequence[str] | None) -> int:
    """How many events of the selection have failed, and are of these types. Relies on the indexes of failed events."""
    statement = select(func.count()).select_from(outbox.events)
    statement = statement.where(*failed(outbox, selection, connection.dialect.name))
    is_meant = outbox.events.c.event_type != ERASURE if types is None else outbox.events.c.event_type.in_(types)
    return connection.execute(statement.where(is_meant), parameters(selection)).scalar_one()


def _in_utc(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(UTC).isoformat()
