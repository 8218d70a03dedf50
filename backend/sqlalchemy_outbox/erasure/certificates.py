"""What is kept of an erasure: when it was asked for, and what was erased where; for who must prove it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select

from sqlalchemy_outbox.model import Outbox


@dataclass(frozen=True, slots=True)
class Certificate:
    """One time that a subject was forgotten. `told` is what the destination said, `removed` what was deleted here.

    `refused` counts the refusals that are kept of its events. `is_done`: nothing of the subject is left in the outbox's
    tables and files. `objection` is why the destination has not erased it, where it has refused to.
    """

    name: str
    event_id: UUID
    way: str
    reason: str
    forgotten_at: datetime
    erased_at: datetime | None
    cleaned_at: datetime | None
    told: Mapping[str, object]
    removed: Mapping[str, int]
    refused: int
    objection: str | None

    @property
    def is_done(self) -> bool:
        return self.cleaned_at is not None

    def as_json(self) -> dict[str, object]:
        instants = {name: getattr(self, name) for name in ("forgotten_at", "erased_at", "cleaned_at")}
        told = {"way": self.way, "reason": self.reason, "is_done": self.is_done, "objection": self.objection}
        return {
            "name": self.name,
            "event_id": str(self.event_id),
            **told,
            **{name: instant and instant.isoformat() for name, instant in instants.items()},
            "destination": dict(self.told),
            "here": {**self.removed, "refused": self.refused},
        }


def read_certificates(connection: Connection, outbox: Outbox, name: str | None, limit: int) -> list[Certificate]:
    """Those of the subject of this name, or of all, newest first. Relies on ix_…_erasures_name and the primary key."""
    e, c = outbox.erasures.c, outbox.events.c
    columns = (e.name, e.event_id, e.way, e.reason, e.forgotten_at, e.erased_at, e.cleaned_at, e.told, e.removed)
    # The event of one that is done may be purged.
    found = (
        select(*columns, c.failed_at, c.last_error)
        .join_from(outbox.erasures, outbox.events, c.event_id == e.event_id, isouter=True)
        .order_by(e.id.desc())
        .limit(limit)
    )
    rows = connection.execute(found if name is None else found.where(e.name == name)).all()
    refused = _count_refusals(connection, outbox, {row.name for row in rows})
    return [_as_certificate(row, refused.get(row.name, 0)) for row in rows]


def _count_refusals(connection: Connection, outbox: Outbox, names: set[str]) -> Mapping[str, int]:
    """Relies on ix_…_failed."""
    c = outbox.events.c
    counted = select(c.subject, func.count()).where(c.subject.in_(names), outbox.is_refusal()).group_by(c.subject)
    counts = connection.execute(counted).all() if names else []
    return {row[0]: row[1] for row in counts}


def _as_certificate(row: Row[*tuple[Any, ...]], refused: int) -> Certificate:
    values = row._mapping
    same = ("name", "event_id", "way", "reason", "forgotten_at", "erased_at", "cleaned_at")
    return Certificate(
        **{it: values[it] for it in same},
        told=json.loads(values["told"] or "{}"),
        removed=json.loads(values["removed"] or "{}"),
        refused=refused,
        objection=values["last_error"] if values["failed_at"] is not None else None,
    )
