"""The marks of subjects that are forgotten: written with their erasures' events, and never lost without an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, func, insert, literal, select

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.model import Outbox

_TURN = func.pg_catalog.pg_advisory_xact_lock(func.pg_catalog.hashtextextended(literal("outbox erasures"), 0))


class NotForgotten(Exception):
    """The subject is not forgotten, because its erasure could not be written; try the whole transaction again."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{NotForgotten.__doc__} {reason}")


@dataclass(frozen=True, slots=True)
class Mark:
    """What is kept of a subject that is forgotten."""

    name: str
    key_name: str
    way: str
    reason: str = field(repr=False)


def write(connection: Connection, outbox: Outbox, marks: Sequence[tuple[str, Mark]]) -> None:
    """Write the marks, each with its event's id. Ids grow in the order of commits: writers take turns until theirs."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(_TURN))
    now = DatabaseNow()
    for event_id, mark in marks:
        values = {"name": mark.name, "key_name": mark.key_name, "way": mark.way, "reason": mark.reason}
        row = {"event_id": UUID(event_id), "forgotten_at": now, "look_at": now, **values}
        connection.execute(insert(outbox.erasures).values(row))
