"""A slot is a permission for its moment: a sender that comes late, because it was stopped or starved, takes another.

Senders that use late slots would leave together, and together with those whose slots are now.
"""

from __future__ import annotations

from dataclasses import dataclass

# How late a sender may leave: an interval, and no less than this. A tenth of a second's requests are let through late
# by it, which is the share that the fleet may exceed its rate by.
LATE_MIN_SECONDS = 0.1
# So often in a row a sender may come late. From then on it may come twice as late each time, or a machine that is busy
# all the time would never send; stops that last take up the lease before.
_LATE_IN_A_ROW = 5
# A round trip is taken to be this long at least, so that the estimate can grow from nothing.
_ROUND_TRIP_MIN_SECONDS = 0.01
_ROUND_TRIP_GROWTH = 2


@dataclass(frozen=True, slots=True)
class Slot:
    """The moments of this machine's monotonic clock between which a sender leaves in its slot."""

    leaves_at: float
    is_late_after: float


class RoundTrip:
    """How long the database takes to give a slot, as far as it always takes so long.

    Of what an answer takes beyond that nobody knows whether it passed before or after the slot was given, so it counts
    as the sender's delay. The estimate falls at once and grows slowly: a process that was stopped while it waited for
    answers is not told from a slow database by a few of them, but by many in a row.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._grown_at = float("-inf")

    def slot(
        self, asked_at: float, answered_at: float, wait_seconds: float, interval_seconds: float, late_before: int = 0
    ) -> Slot:
        """The slot that was `wait_seconds` away when the database was asked for it, after so many that were missed."""
        self._note(asked_at, answered_at)
        wait_seconds = max(0.0, wait_seconds)
        late_seconds = max(interval_seconds, LATE_MIN_SECONDS) * 2 ** max(0, late_before - _LATE_IN_A_ROW)
        return Slot(answered_at + wait_seconds, asked_at + self._seconds + wait_seconds + late_seconds)

    def _note(self, asked_at: float, answered_at: float) -> None:
        seconds = answered_at - asked_at
        if seconds <= self._seconds:
            self._seconds = seconds
        elif asked_at >= self._grown_at:
            # Not by what was asked before it grew: one stop delays all answers that are awaited.
            self._seconds = min(seconds, max(self._seconds * _ROUND_TRIP_GROWTH, _ROUND_TRIP_MIN_SECONDS))
            self._grown_at = answered_at
