"""Time deletes what was delivered or discarded long ago (i), a bounded step at a time.

delivered, by age ─▶ a window of them ─▶ those that no older event of their subject needs ─▶ deleted
                          └─ the next window begins behind it, and once in a while at the oldest event again
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, delete, func, literal, or_, select

from sqlalchemy_outbox.clock import DatabaseNow, Instant
from sqlalchemy_outbox.database.plan_hints import is_one_of, looked_up
from sqlalchemy_outbox.database.server import limit_waits_for_locks
from sqlalchemy_outbox.model import Outbox

EVERY = timedelta(minutes=1)
# How often what had to stay is read again: its older events may have been delivered or discarded meanwhile.
FULL_PASS_EVERY = timedelta(hours=1)
# How long a step waits for a lock: deliveries wait meanwhile.
_LOCK_WAIT_MAX = timedelta(seconds=1)
# The most events that a step deletes: it holds its locks for a moment only.
AT_ONCE = 1000
# Delivered events that a step reads, however many of them have to stay; and those that were settled with the last.
WINDOW = 10_000
# The most links to requests that a step's events have together, unless one event alone has more.
LINKS_MAX = 10_000


class Purge:
    """Deletes an outbox's events that were delivered or discarded longer ago, and what is told of them.

    Events that are newer than a failed one of their subject stay: they say what its retry must not undo. Deliveries
    stay for as long as an event of theirs does.
    """

    def __init__(
        self,
        outbox: Outbox,
        older_than: timedelta,
        *,
        at_once: int = AT_ONCE,
        window: int = WINDOW,
        links_max: int = LINKS_MAX,
        full_pass_every: timedelta = FULL_PASS_EVERY,
    ) -> None:
        self._outbox = outbox
        self._older_than = older_than
        self._at_once = at_once
        self._window = window
        self._links_max = links_max
        self._full_pass_every = full_pass_every
        # What was delivered up to then has been read in this full pass.
        self._after: datetime | None = None
        self._full_pass_at, self._over_at = time.monotonic(), float("-inf")
        self.is_over = False

    def is_due(self) -> bool:
        """Whether there may be something to delete: not for a while, when it is over."""
        return not self.is_over or time.monotonic() - self._over_at >= EVERY.total_seconds()

    def step(self, connection: Connection) -> int:
        """Delete some of them, and return their number; afterwards it `is_over`, or there may be more.

        Relies on ix_…_delivered, ix_…_discarded_at and ix_…_failed_reason.
        """
        self._begin()
        window_end = connection.execute(self._window_end()).scalar_one_or_none()
        delivered = connection.execute(self._purgeable(window_end)).scalars().all()
        count, is_used_up = self._delete(connection, self._outbox.events, delivered, self._at_once)
        if not is_used_up:
            return count
        if window_end is not None:
            self._after = window_end
            return count
        limit = self._at_once - count
        discarded = connection.execute(self._old_discarded(limit)).scalars().all()
        others, is_used_up = self._delete(connection, self._outbox.records.discarded, discarded, limit)
        count += others
        if is_used_up:
            limit -= others
            refused = connection.execute(self._old_refusals(limit)).scalars().all()
            others, is_used_up = self._delete(connection, self._outbox.events, refused, limit)
            count += others
        self.is_over = is_used_up
        self._over_at = time.monotonic()
        return count

    def short_step(self, connection: Connection) -> int:
        """A step that fails soon where it would wait for rows of others that refer to what it deletes."""
        limit_waits_for_locks(connection, _LOCK_WAIT_MAX)
        return self.step(connection)

    def failed(self) -> None:
        """Take note that the last step was not committed: after a while, begin a new full pass."""
        self._full_pass_at = float("-inf")
        self.is_over, self._over_at = True, time.monotonic()

    def _begin(self) -> None:
        now = time.monotonic()
        if self.is_over and now - self._full_pass_at >= self._full_pass_every.total_seconds():
            self._full_pass_at, self._after = now, None
        self.is_over = False

    def _window_end(self) -> Select[Any]:
        at = self._outbox.events.c.processed_at
        return select(at).where(*self._is_ahead()).order_by(at).offset(self._window - 1).limit(1)

    def _purgeable(self, window_end: datetime | None) -> Select[Any]:
        c = self._outbox.events.c
        in_window = [] if window_end is None else [c.processed_at <= window_end]
        return (
            select(c.id)
            .where(*self._is_ahead(), *in_window, *_is_needed_no_more(self._outbox))
            .order_by(c.processed_at)
            .limit(self._at_once)
            .with_for_update(skip_locked=True)
        )

    def _is_ahead(self) -> list[ColumnElement[bool]]:
        at = self._outbox.events.c.processed_at
        old = is_old(at, self._older_than)
        return old if self._after is None else [*old, at > self._after]

    def _old_discarded(self, limit: int) -> Select[Any]:
        d = self._outbox.records.discarded.c
        old = is_old(d.discarded_at, self._older_than)
        is_needed_no_more = _is_discarded_needed_no_more(self._outbox)
        chosen = select(d.id).where(*old, is_needed_no_more).order_by(d.discarded_at).limit(limit)
        return chosen.with_for_update(skip_locked=True)

    def _old_refusals(self, limit: int) -> Select[Any]:
        """Nobody can mend them, and they say nothing."""
        c = self._outbox.events.c
        chosen = select(c.id).where(self._outbox.is_refusal(), *is_old(c.failed_at, self._older_than))
        return chosen.order_by(c.id).limit(limit).with_for_update(skip_locked=True)

    def _delete(self, connection: Connection, events: Table, chosen: Sequence[int], limit: int) -> tuple[int, bool]:
        """Delete the first of these, and what is told of them; how many, and whether there are no more."""
        if not chosen:
            return 0, True
        ids = _of_few_links(connection, self._outbox, chosen, self._links_max)
        delete_what_is_told(connection, self._outbox, ids)
        connection.execute(delete(events).where(events.c.id.in_(ids)))
        return len(ids), len(ids) == len(chosen) < limit


def count_purgeable(connection: Connection, outbox: Outbox, older_than: timedelta) -> int:
    c, d = outbox.events.c, outbox.records.discarded.c
    old = is_old(c.processed_at, older_than)
    delivered = select(func.count()).where(*old, *_is_needed_no_more(outbox))
    needed_no_more = _is_discarded_needed_no_more(outbox)
    discarded = select(func.count()).where(*is_old(d.discarded_at, older_than), needed_no_more)
    refused = select(func.count()).where(outbox.is_refusal(), *is_old(c.failed_at, older_than))
    return sum(connection.execute(counting).scalar_one() for counting in (delivered, discarded, refused))


def is_old(at: ColumnElement[datetime], older_than: timedelta) -> list[ColumnElement[bool]]:
    """By the database's clock and by this machine's: what is deleted is gone, and one of them may run ahead."""
    now = datetime.now(UTC)
    # Longer ago than there are dates is nothing.
    by_this_machine = now - min(older_than, now - datetime.min.replace(tzinfo=UTC))
    return [at < DatabaseNow(-older_than.total_seconds()), at < literal(by_this_machine, Instant())]


def _is_needed_no_more(outbox: Outbox) -> tuple[ColumnElement[bool], ...]:
    """No older event of the subject is failed, and none that failed is open again."""
    return _has_no_older(outbox, outbox.events)


def _is_discarded_needed_no_more(outbox: Outbox) -> ColumnElement[bool]:
    """The same, of a discarded event; one that was never in doubt undoes nothing."""
    discarded = outbox.records.discarded
    return or_(discarded.c.in_doubt_at.is_(None), and_(*_has_no_older(outbox, discarded)))


def _has_no_older(outbox: Outbox, events: Table) -> tuple[ColumnElement[bool], ...]:
    older = outbox.events.alias("older")
    olders = select(older.c.id).where(older.c.subject == events.c.subject, older.c.id < events.c.id)
    is_failed, is_open = older.c.failed_at.is_not(None), outbox.is_open_of_subject(older)
    return tuple(~looked_up(olders.where(condition), events) for condition in (is_failed, is_open))


def _of_few_links(connection: Connection, outbox: Outbox, ids: Sequence[int], links_max: int) -> Sequence[int]:
    """The first of these events, as many as have few enough links to be deleted at once; one at least."""
    links = outbox.records.delivery_events.c
    counted = select(links.event_id, func.count()).where(links.event_id.in_(ids)).group_by(links.event_id)
    counts = {row[0]: row[1] for row in connection.execute(counted)}
    total = 0
    for position, id_ in enumerate(ids):
        total += counts.get(id_, 0)
        if total > links_max and position:
            return ids[:position]
    return ids


def delete_what_is_told(connection: Connection, outbox: Outbox, ids: Sequence[int]) -> None:
    """Delete what is told of these events, and the deliveries that carried no others."""
    records = outbox.records
    deliveries, links, audited = records.deliveries, records.delivery_events, records.audit_events
    carried = select(links.c.delivery_id).where(links.c.event_id.in_(ids))
    other = links.alias("other")
    has_others = (
        select(other.c.event_id)
        .where(other.c.delivery_id == deliveries.c.id, other.c.event_id.not_in(ids))
        .correlate(deliveries)
        .exists()
    )
    # Two purges that each delete a part of a delivery's events take turns, so that the second sees that none are left.
    is_carried = is_one_of(deliveries.c.id, carried, connection.dialect.name)
    locked = select(deliveries.c.id).where(is_carried).order_by(deliveries.c.id).with_for_update()
    delivery_ids = list(connection.execute(locked).scalars())
    connection.execute(delete(deliveries).where(deliveries.c.id.in_(delivery_ids), ~has_others))
    connection.execute(delete(links).where(links.c.event_id.in_(ids)))
    connection.execute(delete(audited).where(audited.c.event_id.in_(ids)))
