"""Looks for leases that ran out, and charges their events: so one that kills its worker is failed in the end.

Before that it sets right what a wrong clock has stored; and where the database's clock has jumped ahead since the last
sweep, leases that seem to have run out begin anew instead.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from random import Random
from typing import NamedTuple

from sqlalchemy import Connection

from sqlalchemy_outbox.clock import read_clock
from sqlalchemy_outbox.housekeeping import corrections
from sqlalchemy_outbox.lease import RENEW_EVERY
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.settling import leases, settlement
from sqlalchemy_outbox.settling.settlement import Settled, settled

# A busy worker looks this often, and one that sleeps until a lease's end then.
SWEEP_EVERY = timedelta(seconds=1)
# A sweep looks back beyond the last one, at what was locked just then; and once in a while at everything.
_OVERLAP = timedelta(seconds=2)
_EVERYTHING_EVERY = timedelta(minutes=1)
_EVERYTHING = timedelta(days=3650)
_LEASES_MAX = 100
# A smaller jump of the clock ends no lease that is renewed.
_JUMP_MIN = RENEW_EVERY
# An event that nobody can settle comes to be one of the first that are open.
_LEASELESS_MAX = 1000


class TakenBack(NamedTuple):
    """How many events were freed, and those that were charged."""

    freed: int
    charged: list[Settled]


class Sweep:
    """One worker's sweeps of an outbox."""

    def __init__(self, outbox: Outbox, random: Random) -> None:
        self._outbox = outbox
        self._random = random
        self._swept_at = float("-inf")
        self._swept_everything_at = float("-inf")
        # The database's clock when it was last looked at, and this machine's monotonic one.
        self._clocks: tuple[datetime, float] | None = None

    def is_due(self) -> bool:
        return time.monotonic() - self._swept_at >= SWEEP_EVERY.total_seconds()

    def correct(self, connection: Connection) -> int:
        """Set right what a wrong clock has stored; how many leases, waits and ends of the gate that were.

        A jump ahead seems to end all leases at once. Those of living workers are renewed in time, so none is charged.
        """
        corrected = corrections.correct_leases(connection, self._outbox, has_jumped=self._has_clock_jumped(connection))
        corrected += corrections.correct_waits(connection, self._outbox)
        # Last: all senders wait for the gate's row.
        return corrected + corrections.correct_gate(connection, self._outbox)

    def take_back(self, connection: Connection) -> TakenBack:
        """Charge the events of workers that stopped answering; and free, uncharged, those whose lease is gone."""
        charged: list[Settled] = []
        since = self._begin()
        freed = leases.free_leaseless(connection, self._outbox, _LEASELESS_MAX) if since == _EVERYTHING else 0
        lost = leases.take_expired(connection, self._outbox, limit=_LEASES_MAX, since=since)
        for token, events in lost.items():
            charges = settlement.charge_lost_leases(events, self._random)
            charged += settled(events, charges, leases.settle(connection, self._outbox, token, charges))
        return TakenBack(freed, charged)

    def seconds_to_next(self, connection: Connection) -> float | None:
        """Seconds until the first lease runs out; None when no event is claimed."""
        return leases.seconds_to_lease_end(connection, self._outbox, _OVERLAP)

    def _has_clock_jumped(self, connection: Connection) -> bool:
        """Whether the database's clock went further ahead than time did since it was last looked at."""
        before, self._clocks = self._clocks, (read_clock(connection), time.monotonic())
        if before is None:
            return False
        by_database, by_machine = self._clocks[0] - before[0], timedelta(seconds=self._clocks[1] - before[1])
        return by_database - by_machine > _JUMP_MIN

    def _begin(self) -> timedelta:
        """How far this sweep looks back."""
        now = time.monotonic()
        last, self._swept_at = self._swept_at, now
        if now - self._swept_everything_at > _EVERYTHING_EVERY.total_seconds():
            self._swept_everything_at = now
            return _EVERYTHING
        return timedelta(seconds=now - last) + _OVERLAP
