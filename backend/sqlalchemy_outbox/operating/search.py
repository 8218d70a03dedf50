"""Events as a person looks for them: newest first and page by page, by reason of failure, or those of one subject.

Each look reads the index of what it asks for, from where the last page ended, and stops when the page is full.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, false, func, select, true, union_all

from sqlalchemy_outbox.database.json_rows import ids_in
from sqlalchemy_outbox.database.plan_hints import is_one_of
from sqlalchemy_outbox.model import WAIT_MIN, Event, Outbox, State, as_event, event_columns
from sqlalchemy_outbox.operating.id_bounds import id_bounds
from sqlalchemy_outbox.operating.selection import EventFilter, EventIds, is_of, parameters

_STATE_COLUMNS = ("id", "event_id", "event_type", "subject", "created_at", "processed_at", "failed_at")
_COLUMNS = (*_STATE_COLUMNS, "available_at", "waits_for", "attempt_count", "last_error", "dry_run", "claim_token")
# Delivered events that a person is shown a comparison with.
_DELIVERED_MAX = 1000
# Events that a count goes through; a person who narrows the filter has the exact number.
COUNTED_MAX = 10_000
# More reasons than a person reads: then the errors differ in what is neither id nor number.
REASONS_MAX = 100


@dataclass(frozen=True, slots=True)
class EventSummary:
    """One event without its payload, which holds personal data."""

    id: int
    event_id: UUID
    event_type: str
    subject: str
    state: State
    created_at: datetime
    processed_at: datetime | None
    failed_at: datetime | None
    attempt_count: int
    last_error: str | None
    dry_run: bool
    available_at: datetime
    waits_for: str | None

    @property
    def is_set_apart(self) -> bool:
        """Whether it waits for something that other events do not wait for."""
        return self.state is State.PENDING and self.available_at - self.created_at > WAIT_MIN

    @property
    def due_at(self) -> datetime | None:
        """When it may be claimed, if it is its turn; None unless it is pending, and while it is set apart."""
        return None if self.state is not State.PENDING or self.is_set_apart else self.available_at

    def as_json(self) -> dict[str, object]:
        left_out = ("id", "event_id", "available_at", "waits_for")
        values = {field_.name: getattr(self, field_.name) for field_ in fields(self) if field_.name not in left_out}
        values["due_at"] = self.due_at
        moments = {name: value.isoformat() for name, value in values.items() if isinstance(value, datetime)}
        return {"event_id": str(self.event_id)} | values | moments


@dataclass(frozen=True, slots=True)
class Found:
    """So many events are like what was asked for, or, unless `is_all` was looked at, so many at least."""

    count: int
    is_all: bool


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Failures that differ in ids and numbers only. `newest` is one of them, with its words in full."""

    reason: str
    count: int
    newest: EventSummary

    def as_json(self) -> dict[str, object]:
        return {"reason": self.reason, "count": self.count, "newest": self.newest.as_json()}


def find_events(
    connection: Connection, outbox: Outbox, filter_: EventFilter, before: int | None, limit: int
) -> list[EventSummary]:
    """The newest `limit` events of the filter whose `id` is below `before`, newest first."""
    c = outbox.events.c
    asked = [*filter_.conditions(outbox), *id_bounds(connection, outbox, filter_.since, filter_.until)]
    pages = []
    for condition in _by_state(outbox, filter_, connection.dialect.name):
        page = summaries(outbox).where(*condition, *asked).order_by(c.id.desc()).limit(limit)
        pages.append(page if before is None else page.where(c.id < before))
    return _merged(connection, pages, limit)


def count_found(connection: Connection, outbox: Outbox, filter_: EventFilter, looked_at_max: int) -> Found:
    """How many events are like that, among the newest so many of what an index finds of each state."""
    c = outbox.events.c
    indexed = [*filter_.indexed(outbox), *id_bounds(connection, outbox, filter_.since, filter_.until)]
    found, is_all = 0, True
    for condition in _by_state(outbox, filter_, connection.dialect.name):
        newest = select(c.event_type, c.created_at).where(*condition, *indexed).order_by(c.id.desc())
        looked_at = newest.limit(looked_at_max + 1).subquery()
        is_like_that = func.count().filter(and_(true(), *filter_.compared(looked_at)))
        of_all, number = connection.execute(select(func.count(), is_like_that).select_from(looked_at)).one()
        found += number
        is_all &= of_all <= looked_at_max
    return Found(found, is_all)


def events_of(connection: Connection, outbox: Outbox, subject: str, limit: int) -> list[EventSummary]:
    """The newest `limit` events of a subject, in order."""
    return find_events(connection, outbox, EventFilter(subject=subject), None, limit)[::-1]


def read_events(connection: Connection, outbox: Outbox, event_ids: Iterable[UUID]) -> list[EventSummary]:
    """Those of the events that exist, in order. Relies on uq_…_event_id."""
    selection = EventIds(frozenset(event_ids))
    c = outbox.events.c
    statement = summaries(outbox).where(is_of(selection, c.event_id, connection.dialect.name)).order_by(c.id)
    return [as_summary(row) for row in connection.execute(statement, parameters(selection))]


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


def ids_of(connection: Connection, outbox: Outbox, event_ids: Collection[UUID]) -> list[int]:
    """The `id` of each of these events that exists, in order. Relies on uq_…_event_id."""
    c = outbox.events.c
    return list(connection.execute(select(c.id).where(c.event_id.in_(event_ids)).order_by(c.id)).scalars())


def read_payloads(connection: Connection, outbox: Outbox, ids: Sequence[int]) -> dict[int, str]:
    """The payloads of those of the events that exist, by `id`. They hold personal data."""
    c = outbox.events.c
    return {row.id: row.payload for row in connection.execute(select(c.id, c.payload).where(c.id.in_(ids)))}


def failure_reasons(connection: Connection, outbox: Outbox) -> list[FailureReason]:
    """The reasons for which events have failed, the most frequent first. Relies on ix_…_failed_reason."""
    c = outbox.events.c
    count = func.count()
    reasons = connection.execute(
        select(func.coalesce(c.failure_reason, ""), count, func.max(c.id))
        .where(outbox.is_failure())
        .group_by(c.failure_reason)
        .order_by(count.desc(), func.max(c.id).desc())
        .limit(REASONS_MAX)
    ).all()
    events = _by_id(connection, outbox, [newest for _, _, newest in reasons])
    # One that was discarded in between is not there any more.
    return [FailureReason(reason, number, events[newest]) for reason, number, newest in reasons if newest in events]


def as_summary(row: Row[Any]) -> EventSummary:
    values = {field_.name: getattr(row, field_.name) for field_ in fields(EventSummary) if field_.name != "state"}
    return EventSummary(state=state_of(row), **values)


def state_of(row: Row[Any]) -> State:
    if row.processed_at is not None:
        return State.DELIVERED
    if row.failed_at is not None:
        return State.FAILED
    return State.PENDING if row.claim_token is None else State.CLAIMED


def _by_state(outbox: Outbox, filter_: EventFilter, dialect_name: str) -> list[list[ColumnElement[bool]]]:
    """What narrows each look down to one index: by the states asked for, or none to go by id alone."""
    # Only together do the indexes of open events hold them all.
    opens = (
        [outbox.is_open_of_subject()] if filter_.subject is not None else [outbox.is_in_line(), outbox.is_set_apart()]
    )
    is_in = partial(_is_in, outbox, dialect_name)
    if filter_.reason is not None:
        return [is_in(State.FAILED)] if filter_.state in (None, State.FAILED) else []
    if filter_.state in (State.PENDING, State.CLAIMED):
        return [[is_open, *is_in(filter_.state)] for is_open in opens]
    if filter_.state is not None:
        return [is_in(filter_.state)]
    if filter_.subject is not None:
        # Only together do the indexes of subjects hold them all, refusals among those that failed.
        return [opens, [outbox.events.c.failed_at.is_not(None)], is_in(State.DELIVERED)]
    return [[]]


def _is_in(outbox: Outbox, dialect_name: str, state: State) -> list[ColumnElement[bool]]:
    """Besides that it is open, where the state says so."""
    c = outbox.events.c
    match state:
        case State.PENDING:
            return [c.claim_token.is_(None)]
        case State.CLAIMED:
            is_leased = is_one_of(c.id, ids_in(outbox.leases.c.event_ids, dialect_name), dialect_name)
            return [c.claim_token.is_not(None), is_leased]
        case State.FAILED:
            return [outbox.is_failure()]
        case State.DELIVERED:
            return [c.processed_at.is_not(None)]
        case _:
            assert_never(state)


def summaries(outbox: Outbox) -> Select[Any]:
    """What `as_summary` reads, of all events."""
    return select(*(outbox.events.c[name] for name in _COLUMNS))


def _by_id(connection: Connection, outbox: Outbox, ids: Sequence[int]) -> dict[int, EventSummary]:
    statement = summaries(outbox).where(outbox.events.c.id.in_(ids))
    return {row.id: as_summary(row) for row in connection.execute(statement)}


def _merged(connection: Connection, pages: Sequence[Select[Any]], limit: int) -> list[EventSummary]:
    if not pages:
        return []
    if len(pages) == 1:
        return [as_summary(row) for row in connection.execute(pages[0])]
    # SQLite takes no ORDER BY in a part of a union, but in a query around it.
    parts = union_all(*(select(page.subquery()) for page in pages)).subquery()
    statement = select(parts).order_by(parts.c.id.desc()).limit(limit)
    return [as_summary(row) for row in connection.execute(statement)]
