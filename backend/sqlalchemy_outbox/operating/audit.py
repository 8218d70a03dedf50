"""What people did, and to which events: written in the transaction that does it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, bindparam, column, insert, select, update

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.database.json_rows import rows_of
from sqlalchemy_outbox.model import Outbox

_TEXT_CHARS_MAX = 2000
# Ids beyond these are told by the links of an entry; see `audit_events`.
_IDS_TOLD_MAX = 20


class Action(StrEnum):
    RETRY = "retry"
    DISCARD = "discard"
    PURGE = "purge"
    HOLD = "hold"
    RELEASE = "release"
    TRY_NOW = "try now"
    PROVISION = "provision"
    REVEAL = "reveal"
    RESYNC = "resync"
    FORGET = "forget"
    END_SESSIONS = "end sessions"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`count` is how many events it concerned so far; `detail` says which were meant."""

    id: int
    at: datetime
    by: str
    action: str
    reason: str | None
    count: int
    detail: dict[str, Any] = field(hash=False)

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"at": self.at.isoformat()}


def record(
    connection: Connection,
    outbox: Outbox,
    action: Action,
    *,
    by: str,
    reason: str | None = None,
    count: int = 0,
    detail: Mapping[str, object] | None = None,
) -> int:
    """Add an entry; its id."""
    table = outbox.records.audit
    statement = (
        insert(table)
        .values(
            at=DatabaseNow(),
            by=by[:_TEXT_CHARS_MAX],
            action=action.value,
            reason=None if reason is None else reason[:_TEXT_CHARS_MAX],
            count=count,
            detail=json.dumps(_named(connection, outbox, _told(detail or {}))),
        )
        .returning(table.c.id)
    )
    entry_id: int = connection.execute(statement).scalar_one()
    return entry_id


def add_events(connection: Connection, outbox: Outbox, entry_id: int, ids: Sequence[int]) -> None:
    """Link these events, by their `id`, to the entry and count them."""
    links = outbox.records.audit_events
    rows = rows_of("rows", (column("event_id", BigInteger),), connection.dialect.name)
    linked = select(rows.c.event_id, bindparam("entry_id", type_=BigInteger))
    connection.execute(
        insert(links).from_select(["event_id", "audit_id"], linked),
        {"rows": json.dumps([{"event_id": id_} for id_ in ids]), "entry_id": entry_id},
    )
    add_count(connection, outbox, entry_id, len(ids))


def add_count(connection: Connection, outbox: Outbox, entry_id: int, count: int) -> None:
    table = outbox.records.audit
    connection.execute(update(table).where(table.c.id == entry_id).values({table.c["count"]: table.c["count"] + count}))


def read_audit(connection: Connection, outbox: Outbox, before: int | None, limit: int) -> list[AuditEntry]:
    """The newest `limit` entries whose id is below `before`, newest first."""
    c = outbox.records.audit.c
    statement = select(outbox.records.audit).order_by(c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(c.id < before)
    return [_as_entry(row) for row in connection.execute(statement)]


def read_audit_of(connection: Connection, outbox: Outbox, id_: int) -> list[AuditEntry]:
    """The entries that concern the event of this `id`, in order."""
    audit, links = outbox.records.audit, outbox.records.audit_events
    statement = (
        select(audit).join(links, links.c.audit_id == audit.c.id).where(links.c.event_id == id_).order_by(audit.c.id)
    )
    return [_as_entry(row) for row in connection.execute(statement)]


def _as_entry(row: Row[Any]) -> AuditEntry:
    values = row._mapping
    told = {name: values[name] for name in ("id", "at", "by", "action", "reason", "count")}
    return AuditEntry(**told, detail=json.loads(values["detail"]))


def _told(detail: Mapping[str, object]) -> dict[str, object]:
    return {name: value[:_IDS_TOLD_MAX] if isinstance(value, list) else value for name, value in detail.items()}


def known_as(connection: Connection, outbox: Outbox, subject: str) -> str:
    """The subject as it may be written down: by its name, where it was forgotten."""
    named = _named(connection, outbox, {"subject": subject})
    return str(named["subject"])


def _named(connection: Connection, outbox: Outbox, detail: Mapping[str, object]) -> Mapping[str, object]:
    """The same, where a subject that was forgotten is known by its name alone, whoever typed it."""
    texts = {part for value in detail.values() for part in (value if isinstance(value, list) else [value])}
    names = {text: outbox.names.of(text) for text in texts if isinstance(text, str)}
    asked = {name for name in names.values() if name is not None}
    if not asked:
        return detail
    e = outbox.erasures.c
    forgotten = set(connection.execute(select(e.name).where(e.name.in_(asked))).scalars())
    shown = {it: name for it, name in names.items() if name in forgotten}
    return {
        key: [shown.get(part, part) for part in value] if isinstance(value, list) else shown.get(str(value), value)
        for key, value in detail.items()
    }
