"""What holds deliveries back for every process: the rate, a throttle, an outage, a hold. One row per outbox.

    open ──429, quota──▶ throttled ──its time has come──▶ open
    open ──3 requests in a row got no answer──▶ throttled (outage) ──a probe succeeded──▶ open
    open ──only a person can mend it──▶ held ──a probe succeeded──▶ open
    any ──a person holds it──▶ held by that person ──a person releases it──▶ open

While an outage or a hold lasts, one request at a time may pass as a probe; each that fails moves the next one away.
A hold of a person lets none pass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeVar

from sqlalchemy import (
    Connection,
    Engine,
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

from outbox.clock import DatabaseNow, SecondsUntil
from outbox.lease import Lease
from outbox.model import GateState, Outbox
from outbox.transaction import for_single_statements, transact

log = logging.getLogger(__name__)
T = TypeVar("T")

# A request is given up after this long, so a lease that covers it covers the request.
REQUEST_DEADLINE = timedelta(seconds=10)
OUTAGES_TO_CLOSE = 3
OUTAGE_PROBE_FIRST = timedelta(seconds=2)
OUTAGE_PROBE_MAX = timedelta(seconds=60)
HOLD_PROBE_EVERY = timedelta(seconds=60)


class GateShut(Exception):
    """Deliveries are held back; nothing may be sent now."""

    def __init__(self, status: GateStatus) -> None:
        super().__init__(f"{status.state}: {status.reason}")
        self.status = status


class LeaseEnding(Exception):
    """The claim's lease does not cover another request; nothing may be sent for it."""


@dataclass(frozen=True, slots=True)
class GateStatus:
    """`until` is when the gate opens by itself, or lets the next probe pass; `held_by` the person who holds it."""

    state: GateState
    until: datetime | None = None
    reason: str | None = None
    wait_seconds: float = 0.0
    held_by: str | None = None

    def as_json(self) -> dict[str, str | None]:
        until = None if self.until is None else self.until.isoformat()
        return {"state": self.state.value, "until": until, "reason": self.reason, "held_by": self.held_by}


@dataclass(frozen=True, slots=True)
class Entry:
    """Leave to send one request. A probe's success opens the gate."""

    is_probe: bool
    outages: int


class Gate:
    """One process's view of its outbox's gate."""

    def __init__(self, outbox: Outbox, engine: Engine, requests_per_second: float) -> None:
        self._outbox = outbox
        self._engine = engine
        self._statement_engine = for_single_statements(engine)
        self._interval_seconds_min = 1 / requests_per_second
        self._interval_seconds = self._interval_seconds_min
        self._shuts = 0
        self._shut_until = 0.0

    async def enter(self, lease: Lease) -> Entry:
        """Wait for the next free slot and return leave to send one request in it; raise GateShut or LeaseEnding."""
        shuts = self._shuts
        entry, wait_seconds = await self._take_slot()
        await asyncio.sleep(max(0.0, wait_seconds))
        if self._shuts != shuts and not entry.is_probe:
            raise GateShut(await self.refresh())
        if not lease.covers(REQUEST_DEADLINE):
            raise LeaseEnding
        return entry

    async def wait_for_slot(self) -> None:
        """Wait for a slot for a request that carries no events, such as a person's look at the account.

        A hold or an outage does not keep it back, because it may be what mends them; a throttle raises GateShut.
        """
        parameters = {"interval": self._interval_seconds}
        wait_seconds = await self._do(
            lambda connection: connection.execute(_take_slot_aside(self._outbox), parameters).scalar_one_or_none()
        )
        if wait_seconds is None:
            raise GateShut(await self.refresh())
        await asyncio.sleep(max(0.0, wait_seconds - self._interval_seconds))

    def keep_below(self, requests_per_second: float) -> bool:
        """Take slots at this rate at most, and never faster than was configured; true when that is slower than before.

        It holds for this process; the others learn it from the answers that they get.
        """
        before = self._interval_seconds
        self._interval_seconds = max(self._interval_seconds_min, 1 / requests_per_second)
        return self._interval_seconds > before

    async def pause(self, wait: timedelta) -> None:
        """Let nobody have another slot until `wait` has passed; those that were taken stay taken."""
        parameters = {"wait": wait.total_seconds()}
        await self._do(lambda connection: connection.execute(_move_slot(self._outbox), parameters))

    def shut_for(self) -> timedelta:
        """How long the gate stays shut, as far as this process knows; zero when a request may try."""
        return max(timedelta(0), timedelta(seconds=self._shut_until - time.monotonic()))

    async def refresh(self) -> GateStatus:
        """Read the gate, which another process or a person may have opened or shut."""
        status = await self._execute(lambda connection: read_gate(connection, self._outbox))
        self._shut_until = time.monotonic() + status.wait_seconds
        return status

    async def heed_hold(self) -> None:
        """Raise GateShut while a person holds the gate: for a delivery that sends nothing and takes no slot."""
        if (status := await self.refresh()).held_by is not None:
            raise GateShut(status)

    async def prepare(self) -> None:
        """Make sure the gate's row exists, and read it."""
        await self._do(lambda connection: _make_row(connection, self._outbox))
        await self.refresh()

    async def probe_hold(self) -> None:
        """Let the next request probe a hold, for a person may have mended what it is about. Prepares the gate.

        Not a person's hold, which nothing but a release ends.
        """
        await self._do(self._end_wait_for_probe)
        await self.refresh()

    async def throttle(self, wait: timedelta, reason: str) -> None:
        """Shut the gate for `wait`; it then opens by itself."""
        await self._shut(GateState.THROTTLED, wait, reason, is_answer=True)

    async def hold(self, reason: str) -> None:
        """Shut the gate until a probe succeeds; `reason` names the remedy."""
        await self._shut(GateState.HELD, HOLD_PROBE_EVERY, reason, is_answer=True)

    async def record_outage(self, entry: Entry, error: str) -> None:
        """Count a request that got no usable answer; several in a row shut the gate.

        How long it stays shut is for its probes to say: other requests, under way when it shut, are counted no more.
        """
        outages = await self._do(lambda connection: self._count_outage(connection, entry))
        if outages is None or outages < OUTAGES_TO_CLOSE:
            return
        doublings = min(outages - OUTAGES_TO_CLOSE, 10)
        wait = min(OUTAGE_PROBE_FIRST * 2**doublings, OUTAGE_PROBE_MAX)
        await self._shut(GateState.THROTTLED, wait, f"outage: {error}", is_answer=False)

    async def record_success(self, entry: Entry) -> None:
        """Forget earlier outages, and open the gate if the request was its probe."""
        if entry.is_probe or entry.outages:
            await self._do(lambda connection: self._reopen(connection, entry))
            await self.refresh()

    async def _shut(self, state: GateState, wait: timedelta, reason: str, *, is_answer: bool) -> None:
        self._shuts += 1
        if await self._do(lambda connection: self._shut_row(connection, state, wait, reason, is_answer=is_answer)):
            log.warning("Deliveries are %s: %s", state, reason, extra={"gate": str(state)})
        await self.refresh()

    async def _do(self, function: Callable[[Connection], T]) -> T:
        return await transact(self._engine, function)

    async def _execute(self, function: Callable[[Connection], T]) -> T:
        """For a function of one statement."""
        return await transact(self._statement_engine, function)

    async def _take_slot(self) -> tuple[Entry, float]:
        parameters = {"interval": self._interval_seconds}
        row = await self._execute(
            lambda connection: connection.execute(_take_slot(self._outbox), parameters).one_or_none()
        )
        if row is None:
            raise GateShut(await self.refresh())
        is_probe = GateState(row.state) is not GateState.OPEN
        return Entry(is_probe, row.outages), row.wait_seconds - self._interval_seconds

    def _end_wait_for_probe(self, connection: Connection) -> None:
        gate = self._outbox.gate
        _make_row(connection, self._outbox)
        is_probed = and_(gate.c.state == GateState.HELD.value, gate.c.held_by.is_(None))
        connection.execute(update(gate).where(is_probed).values(until=DatabaseNow()))

    def _shut_row(
        self, connection: Connection, state: GateState, wait: timedelta, reason: str, *, is_answer: bool
    ) -> bool:
        """Shut the row unless something stronger holds it; true when its state, or what holds it, is new.

        An answer, whatever it says, ends an outage.
        """
        gate = self._outbox.gate
        before = read_gate(connection, self._outbox)
        until = DatabaseNow(wait.total_seconds())
        is_weaker = and_(gate.c.state == GateState.HELD.value, literal(state is not GateState.HELD))
        # A throttle of this moment cannot shorten one that lasts longer, as a daily limit does.
        is_shorter = and_(gate.c.state == state.value, gate.c.until > until, gate.c.outages < OUTAGES_TO_CLOSE)
        connection.execute(
            update(gate)
            .where(gate.c.held_by.is_(None), ~is_weaker, or_(gate.c.until.is_(None), ~is_shorter))
            .values(state=state.value, until=until, reason=reason, **({"outages": 0} if is_answer else {}))
        )
        after = read_gate(connection, self._outbox)
        return before.state != after.state or (after.state is GateState.HELD and before.reason != after.reason)

    def _count_outage(self, connection: Connection, entry: Entry) -> int | None:
        gate = self._outbox.gate
        is_news = or_(literal(entry.is_probe), gate.c.state == GateState.OPEN.value)
        statement = update(gate).where(is_news).values(outages=gate.c.outages + 1).returning(gate.c.outages)
        return connection.execute(statement).scalar_one_or_none()

    def _reopen(self, connection: Connection, entry: Entry) -> None:
        gate = self._outbox.gate
        connection.execute(update(gate).values(outages=0))
        if entry.is_probe:
            opened = update(gate).values(state=GateState.OPEN.value, until=null(), reason=null())
            is_shut = and_(gate.c.state != GateState.OPEN.value, gate.c.held_by.is_(None))
            if connection.execute(opened.where(is_shut)).rowcount:
                log.info("Deliveries go on.", extra={"gate": "open"})


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


def hold(connection: Connection, outbox: Outbox, reason: str, by: str) -> None:
    """Let nothing pass, not even a probe, until a person releases the gate."""
    _make_row(connection, outbox)
    held = {"state": GateState.HELD.value, "until": null(), "reason": reason, "held_by": by}
    connection.execute(update(outbox.gate).values(**held))


def release(connection: Connection, outbox: Outbox) -> None:
    """Open the gate, whoever or whatever shut it; if that lasts, the next request's answer shuts it again."""
    opened = {"state": GateState.OPEN.value, "until": null(), "reason": null(), "held_by": null(), "outages": 0}
    connection.execute(update(outbox.gate).values(**opened))


def _make_row(connection: Connection, outbox: Outbox) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    # Two processes that start at once both mean to be the first.
    connection.execute(insert(outbox.gate).values(id=1, next_slot_at=DatabaseNow()).on_conflict_do_nothing())


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
        .where(or_(g.state == GateState.OPEN.value, g.until <= DatabaseNow()))
        .values(
            next_slot_at=_slot_after(outbox),
            state=case((is_throttle, GateState.OPEN.value), else_=g.state),
            reason=case((is_throttle, null()), else_=g.reason),
            until=case((is_open, null()), else_=next_probe),
        )
        .returning(g.state, g.outages, SecondsUntil(g.next_slot_at).label("wait_seconds"))
    )


@lru_cache(maxsize=16)
def _move_slot(outbox: Outbox) -> Update:
    g = outbox.gate.c
    earliest = DatabaseNow(bindparam("wait", type_=Float))
    return update(outbox.gate).values(next_slot_at=case((g.next_slot_at > earliest, g.next_slot_at), else_=earliest))


@lru_cache(maxsize=16)
def _take_slot_aside(outbox: Outbox) -> Update:
    g = outbox.gate.c
    is_throttled = and_(g.state == GateState.THROTTLED.value, g.outages < OUTAGES_TO_CLOSE, g.until > DatabaseNow())
    return (
        update(outbox.gate)
        .where(~is_throttled)
        .values(next_slot_at=_slot_after(outbox))
        .returning(SecondsUntil(g.next_slot_at))
    )


def _slot_after(outbox: Outbox) -> DatabaseNow:
    """One interval after the last slot, for everyone: the generic cell rate algorithm with burst 1."""
    last = outbox.gate.c.next_slot_at
    slot = case((last > DatabaseNow(), last), else_=DatabaseNow())
    return DatabaseNow(SecondsUntil(slot) + bindparam("interval", type_=Float))
