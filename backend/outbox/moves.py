"""The statements by which a person, or time, moves events: retry (g), discard (h), purge (i)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    update,
)

from outbox.candidates import is_one_of
from outbox.clock import DatabaseNow, DatabaseNowExactly
from outbox.model import Outbox
from outbox.selection import Selection, failed, parameters

# Of this many links at most are a purge's events, unless one event alone has more.
_LINKS_MAX = 10_000


def choose_failed(
    connection: Connection, outbox: Outbox, selection: Selection, types: Sequence[str] | None, *, after: int, limit: int
) -> list[int]:
    """Lock the selection's next failed events, of these types, behind the id `after`; their ids, in order.

    What somebody else is moving at this moment is passed by.
    """
    c = outbox.events.c
    statement = (
        select(c.id)
        .where(*failed(outbox, selection, connection.dialect.name), c.id > after)
        .order_by(c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if types is not None:
        statement = statement.where(c.event_type.in_(types))
    return list(connection.execute(statement, parameters(selection)).scalars())


def retry_failed(connection: Connection, outbox: Outbox, ids: Sequence[int]) -> None:
    """Make these events, which `choose_failed` has locked, pending again with all their attempts.

    Their subjects' present heads are moved to this moment, so that a claim which began before cannot take them: the
    retried event, which is older, goes first. Relies on ix_…_open_subject.
    """
    c = outbox.events.c
    retried = (
        update(outbox.events)
        .where(c.id.in_(ids))
        .values(
            failed_at=null(),
            failure_reason=null(),
            attempt_count=0,
            available_at=DatabaseNowExactly(),
            retried_at=DatabaseNowExactly(),
        )
        .returning(c.subject)
    )
    subjects = set(connection.execute(retried).scalars())
    open_ = outbox.events.alias("open")
    heads = (
        select(func.min(open_.c.id))
        .where(open_.c.subject.in_(subjects), outbox.is_open_of_subject(open_), open_.c.id.not_in(ids))
        .group_by(open_.c.subject)
    )
    # In order, so that two retries of the same subjects wait for each other and not in a circle.
    locked = list(connection.execute(select(c.id).where(c.id.in_(heads)).order_by(c.id).with_for_update()).scalars())
    connection.execute(
        update(outbox.events)
        .where(c.id.in_(locked), c.claim_token.is_(None), c.available_at < DatabaseNowExactly())
        .values(available_at=DatabaseNowExactly())
    )


def discard_failed(connection: Connection, outbox: Outbox, ids: Sequence[int], *, by: str, reason: str) -> None:
    """Take these events, which `choose_failed` has locked, out of the outbox; each is kept whole in `discarded`."""
    events, discarded = outbox.events, outbox.records.discarded
    kept = select(*events.c, DatabaseNow(), literal(by), literal(reason)).where(events.c.id.in_(ids))
    columns = [*(it.name for it in events.c), "discarded_at", "discarded_by", "reason"]
    connection.execute(insert(discarded).from_select(columns, kept))
    connection.execute(delete(events).where(events.c.id.in_(ids)))


def purge(connection: Connection, outbox: Outbox, older_than: timedelta, limit: int) -> int:
    """Delete up to `limit` events that were delivered or discarded longer ago, and what is told of them; their number.

    Events that are newer than a failed one of their subject stay: they say what its retry must not undo. Deliveries
    stay for as long as an event of theirs does. Relies on ix_…_delivered and ix_…_discarded_at.
    """
    c, d = outbox.events.c, outbox.records.discarded.c
    delivered = (
        select(c.id)
        .where(*is_purgeable(outbox, older_than))
        .order_by(c.processed_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = _of_few_links(connection, outbox, list(connection.execute(delivered).scalars()))
    _forget(connection, outbox, ids)
    connection.execute(delete(outbox.events).where(c.id.in_(ids)))
    if len(ids) == limit:
        return limit
    discarded = (
        select(d.id)
        .where(d.discarded_at < DatabaseNow(-older_than.total_seconds()))
        .order_by(d.discarded_at)
        .limit(limit - len(ids))
        .with_for_update(skip_locked=True)
    )
    others = _of_few_links(connection, outbox, list(connection.execute(discarded).scalars()))
    _forget(connection, outbox, others)
    connection.execute(delete(outbox.records.discarded).where(d.id.in_(others)))
    return len(ids) + len(others)


def count_purgeable(connection: Connection, outbox: Outbox, older_than: timedelta) -> int:
    d = outbox.records.discarded.c
    delivered = select(func.count()).select_from(outbox.events).where(*is_purgeable(outbox, older_than))
    discarded = select(func.count()).where(d.discarded_at < DatabaseNow(-older_than.total_seconds()))
    return sum(connection.execute(it).scalar_one() for it in (delivered, discarded))


def is_purgeable(outbox: Outbox, older_than: timedelta) -> tuple[ColumnElement[bool], ...]:
    c = outbox.events.c
    failed_ = outbox.events.alias("failed")
    has_older_failure = (
        select(failed_.c.id)
        .where(failed_.c.subject == c.subject, failed_.c.id < c.id, failed_.c.failed_at.is_not(None))
        .correlate(outbox.events)
        .exists()
    )
    waiting = outbox.events.alias("waiting")
    has_older_retry = (
        select(waiting.c.id)
        .where(waiting.c.subject == c.subject, waiting.c.id < c.id, outbox.is_open_of_subject(waiting))
        .correlate(outbox.events)
        .exists()
    )
    return c.processed_at < DatabaseNow(-older_than.total_seconds()), ~has_older_failure, ~has_older_retry


def _of_few_links(connection: Connection, outbox: Outbox, ids: list[int]) -> list[int]:
    """The first of these events, as many as have few enough links to be deleted at once; one at least."""
    links = outbox.records.delivery_events.c
    counted = select(links.event_id, func.count()).where(links.event_id.in_(ids)).group_by(links.event_id)
    counts = {row[0]: row[1] for row in connection.execute(counted)}
    total = 0
    for position, id_ in enumerate(ids):
        total += counts.get(id_, 0)
        if total > _LINKS_MAX and position:
            return ids[:position]
    return ids


def _forget(connection: Connection, outbox: Outbox, ids: Sequence[int]) -> None:
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
