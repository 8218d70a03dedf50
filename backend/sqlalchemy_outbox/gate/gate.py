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
from collections.abc import Callable, Container
from datetime import timedelta
from enum import Enum, auto
from typing import TypeAlias

from sqlalchemy import Connection, Engine

from sqlalchemy_outbox.database.transaction import for_single_statements, transact
from sqlalchemy_outbox.gate import row as gate_row
from sqlalchemy_outbox.gate.row import OUTAGES_TO_CLOSE, GateStatus, Permit
from sqlalchemy_outbox.gate.slot import RoundTrip
from sqlalchemy_outbox.lease import REQUEST_DEADLINE, Lease
from sqlalchemy_outbox.model import GateState, Outbox
from sqlalchemy_outbox.payload import storable

log = logging.getLogger(__name__)

OUTAGE_PROBE_FIRST = timedelta(seconds=2)
OUTAGE_PROBE_MAX = timedelta(seconds=60)
# While every slot that may be taken is taken, a sender asks for one this often.
_ASK_AGAIN = timedelta(seconds=1)
# A request that has no lease waits this long for its slot.
_CONTROL_SLOT_WAIT_MAX = timedelta(seconds=30)

_Take: TypeAlias = Callable[[Connection, Outbox, float], tuple[Permit, float] | None]


class GateShut(Exception):
    """Deliveries are held back; nothing may be sent now."""

    def __init__(self, status: GateStatus) -> None:
        super().__init__(f"{status.state}: {status.reason}")
        self.status = status


class LeaseEnding(Exception):
    """The claim's lease does not cover another request; nothing may be sent for it."""


class _Missed(Enum):
    """Why a sender has to ask for a slot once more."""

    LATE = auto()
    ALL_TAKEN = auto()


class Gate:
    """One process's view of its outbox's gate."""

    def __init__(self, outbox: Outbox, engine: Engine, requests_per_second: float) -> None:
        self._outbox = outbox
        self._engine = engine
        self._statement_engine = for_single_statements(engine)
        self._interval_seconds_min = 1 / requests_per_second
        self._interval_seconds = self._interval_seconds_min
        # What the destination allows all that ask it, where it has said so.
        self.allowed_per_second: float | None = None
        self._round_trip = RoundTrip()
        self._shuts = 0
        self._shut_until = 0.0

    async def enter(self, lease: Lease) -> Permit:
        """Wait for the next free slot and return leave to send one request in it, now; raise GateShut or LeaseEnding.

        Whoever does something else that takes long before the request enters once more.
        """
        shuts, late = self._shuts, 0
        while True:
            came = await self._come(gate_row.take_slot, late, keeping_back=(GateState.THROTTLED, GateState.HELD))
            if self._shuts != shuts and not (isinstance(came, Permit) and came.is_probe):
                raise GateShut(await self.refresh())
            if not lease.covers(REQUEST_DEADLINE):
                raise LeaseEnding
            if isinstance(came, Permit):
                return came
            late += came is _Missed.LATE

    async def wait_for_slot(self) -> None:
        """Wait for a slot for a request that carries no events, such as a person's look at the account.

        A hold or an outage does not keep it back, because it may be what mends them; a throttle raises GateShut.
        """
        give_up_at = time.monotonic() + _CONTROL_SLOT_WAIT_MAX.total_seconds()
        late = 0
        while time.monotonic() < give_up_at:
            came = await self._come(gate_row.take_control_slot, late, keeping_back=(GateState.THROTTLED,))
            if isinstance(came, Permit):
                return
            late += came is _Missed.LATE
        waited = _CONTROL_SLOT_WAIT_MAX.total_seconds()
        raise GateShut(GateStatus(GateState.THROTTLED, reason=f"no slot could be had in time for {waited:g} s"))

    async def _come(self, take: _Take, late_before: int, *, keeping_back: Container[GateState]) -> Permit | _Missed:
        """Take the next slot and wait for it, or wait for a while when all are taken.

        What a probe may find out has waited for long; it passes though late, for its second would be refused.
        """
        asked_at = time.monotonic()
        taken = await transact(self._statement_engine, take, self._outbox, self._interval_seconds)
        if taken is None:
            if (status := await self.refresh()).state in keeping_back:
                raise GateShut(status)
            await asyncio.sleep(_ASK_AGAIN.total_seconds())
            return _Missed.ALL_TAKEN
        permit, wait_seconds = taken
        slot = self._round_trip.slot(asked_at, time.monotonic(), wait_seconds, self._interval_seconds, late_before)
        await asyncio.sleep(max(0.0, slot.leaves_at - time.monotonic()))
        is_late = time.monotonic() > slot.is_late_after
        return _Missed.LATE if is_late and not permit.is_probe else permit

    def keep_below(self, requests_per_second: float) -> bool:
        """Take slots at this rate at most, and never faster than was configured; true when that is slower than before.

        It holds for this process; the others learn it from the answers that they get.
        """
        before = self._interval_seconds
        self._interval_seconds = max(self._interval_seconds_min, 1 / requests_per_second)
        return self._interval_seconds > before

    async def pause(self, wait: timedelta) -> None:
        """Give nobody another slot until `wait` has passed, ten seconds at most. Those that were taken stay taken."""
        await transact(self._engine, gate_row.move_slot, self._outbox, wait)

    def shut_for(self) -> timedelta:
        """How long the gate stays shut, as far as this process knows; zero when a request may try."""
        return max(timedelta(0), timedelta(seconds=self._shut_until - time.monotonic()))

    async def refresh(self) -> GateStatus:
        """Read the gate, which another process or a person may have opened or shut."""
        status = await transact(self._statement_engine, gate_row.read_gate, self._outbox)
        self._shut_until = time.monotonic() + status.wait_seconds
        return status

    async def raise_if_held(self) -> None:
        """Raise GateShut while a person holds the gate: for a delivery that sends nothing and takes no slot."""
        if (status := await self.refresh()).held_by is not None:
            raise GateShut(status)

    async def prepare(self) -> None:
        """Make sure the gate's row exists, and read it."""
        await transact(self._engine, gate_row.make_row, self._outbox)
        await self.refresh()

    async def probe_hold(self) -> None:
        """Let the next request probe a hold, for a person may have mended what it is about. Prepares the gate.

        Not a person's hold, which nothing but a release ends.
        """
        await transact(self._engine, gate_row.end_wait_for_probe, self._outbox)
        await self.refresh()

    async def throttle(self, wait: timedelta, reason: str) -> None:
        """Shut the gate for `wait`; it then opens by itself."""
        await self._shut(GateState.THROTTLED, wait, reason, is_answer=True)

    async def hold(self, reason: str) -> None:
        """Shut the gate until a probe succeeds; `reason` names the remedy."""
        await self._shut(GateState.HELD, gate_row.HOLD_PROBE_EVERY, reason, is_answer=True)

    async def record_outage(self, permit: Permit, error: str) -> None:
        """Count a request that got no usable answer; several in a row shut the gate.

        How long it stays shut is for its probes to say: other requests, under way when it shut, are counted no more.
        """
        outages = await transact(self._engine, gate_row.count_outage, self._outbox, is_probe=permit.is_probe)
        if outages is None or outages < OUTAGES_TO_CLOSE:
            return
        doublings = min(outages - OUTAGES_TO_CLOSE, 10)
        wait = min(OUTAGE_PROBE_FIRST * 2**doublings, OUTAGE_PROBE_MAX)
        await self._shut(GateState.THROTTLED, wait, f"outage: {error}", is_answer=False)

    async def record_success(self, permit: Permit) -> None:
        """Forget earlier outages, and open the gate if the request was its probe."""
        if permit.is_probe or permit.outages:
            if await transact(self._engine, gate_row.forget_outages, self._outbox, is_probe=permit.is_probe):
                log.info("Deliveries go on.", extra={"gate": "open"})
            await self.refresh()

    async def _shut(self, state: GateState, wait: timedelta, reason: str, *, is_answer: bool) -> None:
        self._shuts += 1
        # For the log too.
        reason = storable(reason)
        if await transact(self._engine, gate_row.shut, self._outbox, state, wait, reason, is_answer=is_answer):
            log.warning("Deliveries are %s: %s", state, reason, extra={"gate": str(state)})
        await self.refresh()
