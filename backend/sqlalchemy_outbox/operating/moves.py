"""The statements by which a person moves events: retry (g), discard (h)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    Connection,
    delete,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from sqlalchemy_outbox.clock import DatabaseNow, DatabaseNowExactly, not_ahead
from sqlalchemy_outbox.model import ERASURE, Outbox
from sqlalchemy_outbox.operating.selection import Selection, failed, parameters
from sqlalchemy_outbox.settling import waits
from sqlalchemy_outbox.text import AnyText


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
        .with_for_update(skip_locked=True, key_share=True)
    )
    # An erasure that was given up would leave a person where she asked not to be: it is retried until it is done.
    is_meant = c.event_type != ERASURE if types is None else c.event_type.in_(types)
    return list(connection.execute(statement.where(is_meant), parameters(selection)).scalars())


def retry_failed(connection: Connection, outbox: Outbox, ids: Sequence[int], *, is_cautious: bool = False) -> None:
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
            created_at=not_ahead(c.created_at),
            retried_at=DatabaseNowExactly(),
            is_cautious=is_cautious or None,
            waits_for=null(),
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
    in_order = select(c.id).where(c.id.in_(heads)).order_by(c.id).with_for_update(key_share=True)
    locked = list(connection.execute(in_order).scalars())
    is_due = or_(c.available_at < DatabaseNowExactly(), c.available_at <= c.created_at)
    connection.execute(
        update(outbox.events)
        .where(c.id.in_(locked), c.claim_token.is_(None), is_due)
        .values(available_at=DatabaseNowExactly(), created_at=not_ahead(c.created_at))
    )


def discard_failed(connection: Connection, outbox: Outbox, ids: Sequence[int], *, by: str, reason: str) -> None:
    """Take these events, which `choose_failed` has locked, out of the outbox; each is kept whole in `discarded`."""
    events, discarded = outbox.events, outbox.records.discarded
    c = events.c
    # What waits behind one that a statement has failed need not wait for its sake any more.
    were_waiting = select(c.subject).where(c.id.in_(ids), c.waits_for.is_not(None))
    waits.release_subjects(connection, outbox, connection.execute(were_waiting).scalars().all())
    kept = select(*events.c, DatabaseNow(), literal(by, AnyText()), literal(reason, AnyText())).where(
        events.c.id.in_(ids)
    )
    columns = [*(column.name for column in events.c), "discarded_at", "discarded_by", "reason"]
    connection.execute(insert(discarded).from_select(columns, kept))
    connection.execute(delete(events).where(events.c.id.in_(ids)))
