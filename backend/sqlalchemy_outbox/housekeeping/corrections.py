"""Instants that no wait of ours can justify were stored by a clock that was wrong. Here they are set right.

The database's clock may jump, ahead or back, for a moment or for good. Whatever then seems to lie a day ahead would be
waited for that long. What seems long past is no matter: it is due.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, and_, or_, select, update

from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil, not_ahead
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import WAIT_MIN, Outbox
from sqlalchemy_outbox.settling.backoff import WAIT_MAX

# What somebody else has written a moment later than this statement began is not wrong.
_SLACK = timedelta(seconds=1)
# Events at once: so many locks are held for a moment only.
_EVENTS_MAX = 5000


def correct_leases(connection: Connection, outbox: Outbox, *, has_jumped: bool) -> int:
    """Let no lease last longer than one that begins now; the number of those that did.

    After the clock `has_jumped` ahead, leases that ran out by that begin anew: their workers may be alive, and then
    renew them. Relies on ix_…_leases_until.
    """
    leases = outbox.leases.c
    is_wrong: ColumnElement[bool] = leases.until > DatabaseNow((LEASE + _SLACK).total_seconds())
    if has_jumped:
        is_wrong = or_(is_wrong, leases.until < DatabaseNow())
    wrong = select(leases.token).where(is_wrong).with_for_update(skip_locked=True)
    tokens = list(connection.execute(wrong).scalars())
    if tokens:
        renewed = update(outbox.leases).where(leases.token.in_(tokens))
        connection.execute(renewed.values(until=DatabaseNow(LEASE.total_seconds())))
    return len(tokens)


def correct_waits(connection: Connection, outbox: Outbox) -> int:
    """Make events due that were pushed back further than any is; how many. Relies on ix_…_backing_off.

    What is set apart is due later than all of them, and stays so.
    """
    c = outbox.events.c
    is_wrong = c.available_at.between(
        DatabaseNow((WAIT_MAX + _SLACK).total_seconds()), DatabaseNow(WAIT_MIN.total_seconds())
    )
    wrong = (
        select(c.id)
        .where(outbox.is_pushed_back(), is_wrong, c.claim_token.is_(None))
        .order_by(c.id)
        .limit(_EVENTS_MAX)
        .with_for_update(skip_locked=True, key_share=True)
    )
    ids = list(connection.execute(wrong).scalars())
    if ids:
        due = {"available_at": DatabaseNow(), "created_at": not_ahead(c.created_at)}
        connection.execute(update(outbox.events).where(c.id.in_(ids)).values(**due))
    return len(ids)


def correct_gate(connection: Connection, outbox: Outbox) -> int:
    """Bring the end of what shuts the gate back by as much as the clock was ahead when it was set; 1 if it was.

    How far ahead an end lies tells nothing: a daily limit lasts up to a day.
    """
    g = outbox.gate.c
    was_ahead = and_(g.until.is_not(None), g.until_set_at > DatabaseNow())
    until = DatabaseNow(SecondsUntil(g.until) - SecondsUntil(g.until_set_at))
    moved = update(outbox.gate).where(was_ahead).values(until=until, until_set_at=DatabaseNow())
    return connection.execute(moved).rowcount
