"""The statements by which the gate's one row is read, passed, shut and opened.

They take a connection and leave the commit to its owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Update,
    and_,
    bindparam,
    case,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from sqlalchemy_outbox.clock import DatabaseNow, SecondsUntil
from sqlalchemy_outbox.gate import closures
from sqlalchemy_outbox.lease import REQUEST_DEADLINE
from sqlalchemy_outbox.model import GateState, Outbox

OUTAGES_TO_CLOSE = 3
HOLD_PROBE_EVERY = timedelta(seconds=60)
# No slot is taken further ahead: a sender's lease would hardly cover its request by then.
SLOTS_AHEAD_MAX = timedelta(seconds=10)
# So the next slot is never further ahead than that and an interval, of a process that may know of a slower rate. What
# says so comes from a clock that was wrong, and counts as now.
_INTERVALS_AHEAD_MAX = 2


@dataclass(frozen=True, slots=True)
class GateStatus:
    """`until` is when the gate opens by itself, or lets the next probe pass; `held_by` the person who holds it.

    `since` is for who looks (see `closures`).
    """

    state: GateState
    until: datetime | None = None
    reason: str | None = None
    wait_seconds: float = 0.0
    held_by: str | None = None
    since: datetime | None = None

    def as_json(self) -> dict[str, str | None]:
        since, until = (None if instant is None else instant.isoformat() for instant in (self.since, self.until))
        told = {"state": self.state.value, "until": until, "reason": self.reason, "held_by": self.held_by}
        return told if since is None else told | {"since": since}


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to send one request. A probe's success opens the gate."""

    is_probe: bool
    outages: int


def read_gate(connection: Connection, outbox: Outbox) -> GateStatus:
    g = outbox.gate.c
    row = connection.execute(
        select(g.state, g.until, g.reason, g.held_by, SecondsUntil(g.until).label("wait_seconds"))
    ).one_or_none()
    if row is None:
        return GateStatus(GateState.OPEN)
    # A release is told to sleeping workers; one that does not hear of it looks again after so long.
    longest = HOLD_PROBE_EVERY.total_seconds() if row.held_by is not None else 0.0
    wait_seconds = max(0.0, row.wait_seconds or longest)
    return GateStatus(GateState(row.state), row.until, row.reason, wait_seconds, row.held_by)


def lock(connection: Connection, outbox: Outbox) -> None:
    """Let nobody else change the gate until this transaction ends."""
    connection.execute(select(outbox.gate.c.id).with_for_update())


def hold(connection: Connection, outbox: Outbox, reason: str, by: str) -> None:
    """Let nothing pass, not even a probe, until a person releases the gate."""
    make_row(connection, outbox)
    held = {"state": GateState.HELD.value, "until": null(), "reason": reason, "held_by": by}
    connection.execute(update(outbox.gate).values(**held))
    closures.note_shut(connection, outbox, GateState.HELD, reason, by, None)


def release(connection: Connection, outbox: Outbox) -> None:
    """Open the gate, whoever or whatever shut it; if that lasts, the next request's answer shuts it again.

    A next slot that is further ahead than any may be taken is now; a nearer one is what keeps to the rate.
    """
    slot = outbox.gate.c.next_slot_at
    is_far = slot > DatabaseNow(SLOTS_AHEAD_MAX.total_seconds())
    opened = {"state": GateState.OPEN.value, "until": null(), "reason": null(), "held_by": null(), "outages": 0}
    connection.execute(update(outbox.gate).values(**opened, next_slot_at=case((is_far, DatabaseNow()), else_=slot)))
    closures.note_open(connection, outbox)


def make_row(connection: Connection, outbox: Outbox) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    # Two processes that start at once both mean to be the first.
    connection.execute(insert(outbox.gate).values(id=1, next_slot_at=DatabaseNow()).on_conflict_do_nothing())


def take_slot(connection: Connection, outbox: Outbox, interval_seconds: float) -> tuple[Permit, float] | None:
    """Leave to send one request, and the seconds until then; None when the gate is shut, or no slot may be taken."""
    row = connection.execute(_take_slot(outbox), _slot_parameters(interval_seconds)).one_or_none()
    if row is None:
        return None
    is_probe = GateState(row.state) is not GateState.OPEN
    return Permit(is_probe, row.outages), row.wait_seconds - interval_seconds


def take_control_slot(connection: Connection, outbox: Outbox, interval_seconds: float) -> tuple[Permit, float] | None:
    """The same for a request that a hold or an outage does not keep back, and that is no probe."""
    wait_seconds = connection.execute(
        _take_control_slot(outbox), _slot_parameters(interval_seconds)
    ).scalar_one_or_none()
    return None if wait_seconds is None else (Permit(is_probe=False, outages=0), wait_seconds - interval_seconds)


def move_slot(connection: Connection, outbox: Outbox, wait: timedelta) -> None:
    """Let the next slot be no sooner than after `wait`, or after as long as slots may be taken ahead."""
    connection.execute(_move_slot(outbox), {"wait": min(wait, SLOTS_AHEAD_MAX).total_seconds()})


def end_wait_for_probe(connection: Connection, outbox: Outbox) -> None:
    """Let the next request probe a hold that no person holds; makes the row."""
    make_row(connection, outbox)
    g = outbox.gate.c
    is_probed = and_(g.state == GateState.HELD.value, g.held_by.is_(None))
    connection.execute(update(outbox.gate).where(is_probed).values(**_ending(DatabaseNow())))


def end_wait(connection: Connection, outbox: Outbox) -> bool:
    """Let the next request find out whether it is over, what shut the gate; false when only a person can open it."""
    g = outbox.gate.c
    is_waited_for = and_(g.state != GateState.OPEN.value, g.held_by.is_(None))
    return connection.execute(update(outbox.gate).where(is_waited_for).values(**_ending(DatabaseNow()))).rowcount > 0


def shut(
    connection: Connection, outbox: Outbox, state: GateState, wait: timedelta, reason: str, *, is_answer: bool
) -> bool:
    """Shut the row unless something stronger holds it; true when its state, or what holds it, is new.

    An answer, whatever it says, ends an outage.
    """
    gate = outbox.gate
    before = read_gate(connection, outbox)
    until = DatabaseNow(wait.total_seconds())
    is_weaker = and_(gate.c.state == GateState.HELD.value, literal(state is not GateState.HELD))
    # A throttle of this moment cannot shorten one that lasts longer, as a daily limit does.
    is_shorter = and_(gate.c.state == state.value, gate.c.until > until, gate.c.outages < OUTAGES_TO_CLOSE)
    is_shut = connection.execute(
        update(gate)
        .where(gate.c.held_by.is_(None), ~is_weaker, or_(gate.c.until.is_(None), ~is_shorter))
        .values(state=state.value, reason=reason, **_ending(until), **({"outages": 0} if is_answer else {}))
    ).rowcount
    after = read_gate(connection, outbox)
    if is_shut:
        opens_by_itself = is_answer and state is GateState.THROTTLED
        closures.note_shut(connection, outbox, state, reason, None, after.until if opens_by_itself else None)
    return before.state != after.state or (after.state is GateState.HELD and before.reason != after.reason)


def count_outage(connection: Connection, outbox: Outbox, *, is_probe: bool) -> int | None:
    """How many there were in a row; None when the gate was shut meanwhile and this is no probe's."""
    gate = outbox.gate
    is_news = or_(literal(is_probe), gate.c.state == GateState.OPEN.value)
    statement = update(gate).where(is_news).values(outages=gate.c.outages + 1).returning(gate.c.outages)
    return connection.execute(statement).scalar_one_or_none()


def forget_outages(connection: Connection, outbox: Outbox, *, is_probe: bool) -> bool:
    """End an outage, and open the gate if it was a probe that did so; true when that opened it."""
    gate = outbox.gate
    connection.execute(update(gate).values(outages=0))
    if not is_probe:
        return False
    opened = update(gate).values(state=GateState.OPEN.value, until=null(), reason=null())
    is_shut = and_(gate.c.state != GateState.OPEN.value, gate.c.held_by.is_(None))
    has_opened = connection.execute(opened.where(is_shut)).rowcount > 0
    if has_opened:
        closures.note_open(connection, outbox)
    return has_opened


@lru_cache(maxsize=16)
def _take_slot(outbox: Outbox) -> Update:
    """Take the next slot of an open gate; or of one whose time has come, as a probe or because a throttle is over."""
    g = outbox.gate.c
    is_throttle = and_(g.state == GateState.THROTTLED.value, g.outages < OUTAGES_TO_CLOSE)
    is_open = or_(g.state == GateState.OPEN.value, is_throttle)
    # Should this probe's sender never tell what became of it.
    next_probe = case(
        (g.state == GateState.HELD.value, DatabaseNow(HOLD_PROBE_EVERY.total_seconds())),
        else_=DatabaseNow(REQUEST_DEADLINE.total_seconds()),
    )
    return (
        update(outbox.gate)
        .where(or_(g.state == GateState.OPEN.value, g.until <= DatabaseNow()), _may_be_taken(outbox))
        .values(
            next_slot_at=_slot_after(outbox),
            state=case((is_throttle, GateState.OPEN.value), else_=g.state),
            reason=case((is_throttle, null()), else_=g.reason),
            **_ending(case((is_open, null()), else_=next_probe)),
        )
        .returning(g.state, g.outages, SecondsUntil(g.next_slot_at).label("wait_seconds"))
    )


@lru_cache(maxsize=16)
def _move_slot(outbox: Outbox) -> Update:
    g = outbox.gate.c
    earliest = DatabaseNow(bindparam("wait", type_=Float))
    return update(outbox.gate).values(next_slot_at=case((g.next_slot_at > earliest, g.next_slot_at), else_=earliest))


@lru_cache(maxsize=16)
def _take_control_slot(outbox: Outbox) -> Update:
    g = outbox.gate.c
    is_throttled = and_(g.state == GateState.THROTTLED.value, g.outages < OUTAGES_TO_CLOSE, g.until > DatabaseNow())
    return (
        update(outbox.gate)
        .where(~is_throttled, _may_be_taken(outbox))
        .values(next_slot_at=_slot_after(outbox))
        .returning(SecondsUntil(g.next_slot_at))
    )


def _slot_parameters(interval_seconds: float) -> dict[str, float]:
    ahead_max = SLOTS_AHEAD_MAX.total_seconds()
    return {
        "interval": interval_seconds,
        "ahead_max": ahead_max,
        "credible_max": ahead_max + _INTERVALS_AHEAD_MAX * interval_seconds,
    }


def _slot_after(outbox: Outbox) -> DatabaseNow:
    """One interval after the last slot, for everyone: the generic cell rate algorithm with burst 1."""
    last = outbox.gate.c.next_slot_at
    slot = case((and_(last > DatabaseNow(), ~_is_incredible(outbox)), last), else_=DatabaseNow())
    return DatabaseNow(SecondsUntil(slot) + bindparam("interval", type_=Float))


def _may_be_taken(outbox: Outbox) -> ColumnElement[bool]:
    is_near = outbox.gate.c.next_slot_at <= DatabaseNow(bindparam("ahead_max", type_=Float))
    return or_(is_near, _is_incredible(outbox))


def _is_incredible(outbox: Outbox) -> ColumnElement[bool]:
    """Whether only a clock that was wrong can have put the next slot so far ahead."""
    return outbox.gate.c.next_slot_at > DatabaseNow(bindparam("credible_max", type_=Float))


def _ending(until: ColumnElement[Any]) -> dict[str, ColumnElement[Any]]:
    return {"until": until, "until_set_at": DatabaseNow()}
