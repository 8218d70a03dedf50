"""What is newer than a claimed event of the same subject, and may stand at the destination already.

An older event must not undo it: it was delivered, or it is in doubt. Only a retry by hand, or a claim that did not end
as it should, sends an event that anything newer may have overtaken.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Subquery,
    Table,
    case,
    column,
    false,
    literal_column,
    select,
    union_all,
)

from sqlalchemy_outbox.model import Event, Outbox, as_event

PAGE_SIZE = 200


class Standing(Enum):
    """How far a newer event got."""

    DELIVERED = auto()
    """What it says stands."""
    IN_DOUBT = auto()
    """A request that carried it may have been applied. It is open, failed or discarded now."""
    WAITING = auto()
    """It is open, and no request of it is in doubt."""


class Newer(NamedTuple):
    event: Event
    standing: Standing


_STANDINGS = list(Standing)


def may_be_overtaken(events: Sequence[Event]) -> bool:
    """Whether anything newer than these events of one subject may stand at the destination."""
    return any(event.retried_at or event.in_doubt_at or event.attempt_count > 1 for event in events)


def read_newer(connection: Connection, outbox: Outbox, first: Event, before: int | None) -> list[Newer]:
    """A page of what is newer than `first` of its subject, newest first; the next one is `before` the last one's id.

    A page that is not full is the last. A dry run has delivered nothing. Relies on ix_…_delivered_subject,
    ix_…_open_subject, ix_…_failed and ix_…_discarded_in_doubt.
    """
    events, discarded = outbox.events, outbox.records.discarded
    has_doubt = events.c.in_doubt_at.is_not(None)
    in_doubt_or_waiting = case((has_doubt, _code(Standing.IN_DOUBT)), else_=_code(Standing.WAITING))
    parts = [
        _read(events, _code(Standing.DELIVERED), events.c.processed_at.is_not(None), events.c.dry_run.is_(false())),
        _read(events, in_doubt_or_waiting, outbox.is_open_of_subject()),
        _read(events, _code(Standing.IN_DOUBT), events.c.failed_at.is_not(None), has_doubt),
        _read(discarded, _code(Standing.IN_DOUBT), discarded.c.in_doubt_at.is_not(None)),
    ]
    pages = [select(_page(part, first, before)) for part in parts]
    newest = union_all(*pages).order_by(column("id").desc()).limit(PAGE_SIZE)
    return [Newer(as_event(row[:-1]), _STANDINGS[row[-1]]) for row in connection.execute(newest)]


def _code(standing: Standing) -> ColumnElement[int]:
    return literal_column(str(_STANDINGS.index(standing)), Integer)


def _read(table: Table, standing: ColumnElement[int], *conditions: ColumnElement[bool]) -> Select[Any]:
    columns = [table.c[name] for name in Event._fields]
    return select(*columns, standing.label("standing")).where(*conditions)


def _page(part: Select[Any], first: Event, before: int | None) -> Subquery:
    c = part.selected_columns
    page = part.where(c.subject == first.subject, c.id > first.id).order_by(c.id.desc()).limit(PAGE_SIZE)
    return page.subquery() if before is None else page.where(c.id < before).subquery()
