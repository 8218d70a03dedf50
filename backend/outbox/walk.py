"""How a worker finds its next events without looking at all of them: it walks, and comes back for what it passed by.

    ahead      the open events in order of id, from where the last look ended; those of busy subjects are passed by
    followers  of subjects whose delivery has ended: what was passed by meanwhile
    again      events whose backoff is over, and those that a person retried

A new lap begins now and then, from the first open event: the net for whatever else was passed by, such as events that
another worker handed back. It says only where to look; who may have what is for `claims`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import islice

from sqlalchemy import Connection

from outbox import claims, queries
from outbox.candidates import Window
from outbox.claims import Claimed, Look
from outbox.horizon import Horizon
from outbox.model import Event, Outbox, State
from outbox.settlement import Settlement

LAP_EVERY = timedelta(seconds=10)
# A look reads this many times the events that it may claim: enough to find others where subjects are busy.
_WINDOW_PER_LIMIT = 2
_WINDOW_MIN = 100
# Where a look finds nothing to claim, the next one is twice as wide, up to this.
_WINDOW_MAX = 10_000
# Followers wait this long, or for so many subjects to look at together, while there are events ahead.
_FOLLOWERS_WAIT = timedelta(seconds=1)
_SUBJECTS_MAX = 1000
# A look for what comes again, which found that it has to wait for others, is not repeated sooner.
_AGAIN_PAUSE = timedelta(seconds=1)
# So many ids ahead of the horizon, its walk back costs more than a new look at the horizon.
_HORIZON_IDS = 1000
_HORIZON_EVERY = timedelta(seconds=1)
_NEVER = float("inf")
_NO_ID = 2**62


class Walk:
    """One worker's place in the outbox, or in the events of one `subject`."""

    def __init__(self, outbox: Outbox, subject: str | None = None) -> None:
        self._outbox = outbox
        self._subject = subject
        self._horizon = Horizon(outbox)
        self._horizon_at = float("-inf")
        self._position = 0
        self._widening = 1
        self._is_at_end = False
        self._lap_at = time.monotonic()
        self._again_at = 0.0
        self._again_dry_at = float("-inf")
        self._is_again_first = True
        # Written as deliveries end, while another thread claims.
        self._lock = threading.Lock()
        self._released: dict[str, int] = {}
        self._released_at = _NEVER
        self._handed_back_id = _NO_ID

    def claim(
        self, connection: Connection, *, types: Sequence[str], token: str, lease: timedelta, limit: int
    ) -> list[Event]:
        """Claim up to `limit` events for `token`, from the first place that has any."""
        self._set_out(connection)
        for look in self._looks(limit):
            claimed = claims.claim(connection, self._outbox, look, types=types, token=token, lease=lease, limit=limit)
            self._learn(look, claimed)
            if claimed.events:
                return claimed.events
        return []

    def ended(self, events: Sequence[Event], settlements: Sequence[Settlement]) -> None:
        """Take note of how a claim's events left it: whose followers are free now, and what comes back when."""
        now = time.monotonic()
        with self._lock:
            for event, settlement in zip(events, settlements, strict=True):
                if settlement.state is not State.PENDING:
                    self._released[event.subject] = max(event.id, self._released.get(event.subject, 0))
                    self._released_at = min(self._released_at, now)
                elif settlement.wait_seconds > 0:
                    self._again_at = min(self._again_at, now + settlement.wait_seconds)
                else:
                    self._handed_back_id = min(self._handed_back_id, event.id)

    def restart(self) -> None:
        """Begin a new lap at once."""
        self._lap_at = float("-inf")

    def seconds_to_next(self, connection: Connection) -> float | None:
        """Seconds until there may be an event to come back for; None when none is known."""
        seconds = queries.seconds_to_next_again(connection, self._outbox)
        now = time.monotonic()
        earliest = self._again_dry_at + _AGAIN_PAUSE.total_seconds()
        self._again_at = _NEVER if seconds is None else max(now + seconds, earliest)
        return None if seconds is None else self._again_at - now

    def _set_out(self, connection: Connection) -> None:
        now = time.monotonic()
        is_far = self._horizon.settled_to + _HORIZON_IDS < self._position
        if is_far or now - self._horizon_at > _HORIZON_EVERY.total_seconds():
            self._horizon.refresh(connection)
            self._horizon_at = now
        with self._lock:
            self._position = min(self._position, self._handed_back_id - 1)
            self._handed_back_id = _NO_ID
        if now - self._lap_at > LAP_EVERY.total_seconds():
            self._lap_at = now
            self._position = min(self._position, self._horizon.floor - 1)
            self._again_at = 0.0
        self._is_at_end = False

    def _looks(self, limit: int) -> Iterator[Look]:
        if self._subject is not None:
            yield self._look(Window.FOLLOWERS, limit, subjects={self._subject: 0})
            return
        # In turns, so that neither a backlog nor a run of failures keeps the other waiting.
        self._is_again_first = not self._is_again_first
        if self._is_again_first and self._is_again_due():
            yield self._look(Window.AGAIN, limit)
        if self._has_followers_waiting():
            yield self._look(Window.FOLLOWERS, limit, subjects=self._free_subjects())
        while not self._is_at_end:
            yield self._look(Window.AHEAD, limit, after=self._position)
        if self._released:
            yield self._look(Window.FOLLOWERS, limit, subjects=self._free_subjects())
        if self._is_again_due():
            yield self._look(Window.AGAIN, limit)

    def _look(self, window: Window, limit: int, *, after: int = 0, subjects: dict[str, int] | None = None) -> Look:
        size = max(limit * _WINDOW_PER_LIMIT, _WINDOW_MIN)
        if window is Window.AHEAD:
            size = max(size, min(size * self._widening, _WINDOW_MAX))
        return Look(window, after, subjects or {}, self._horizon.floor, size)

    def _learn(self, look: Look, claimed: Claimed) -> None:
        match look.window:
            case Window.AHEAD:
                self._position = claimed.used_up_to
                self._widening = 1 if claimed.events or claimed.is_end else self._widening * 2
                if claimed.is_end:
                    self._position = min(self._position, self._horizon.settled_to)
                    self._is_at_end = True
            case Window.FOLLOWERS:
                self._forget_subjects(look, claimed)
            case Window.AGAIN if claimed.is_used_up and not claimed.events:
                self._again_at, self._again_dry_at = _NEVER, time.monotonic()
            case Window.AGAIN:
                pass

    def _is_again_due(self) -> bool:
        return self._again_at <= time.monotonic()

    def _has_followers_waiting(self) -> bool:
        waits_since = time.monotonic() - self._released_at
        return len(self._released) >= _SUBJECTS_MAX or waits_since > _FOLLOWERS_WAIT.total_seconds()

    def _free_subjects(self) -> dict[str, int]:
        with self._lock:
            return dict(islice(self._released.items(), _SUBJECTS_MAX))

    def _forget_subjects(self, look: Look, claimed: Claimed) -> None:
        """Those looked at in vain, and those claimed: their deliveries release them again."""
        claimed_subjects = {event.subject for event in claimed.events}
        with self._lock:
            for subject, after in look.subjects.items():
                is_unchanged = self._released.get(subject) == after
                if is_unchanged and (claimed.is_used_up or subject in claimed_subjects):
                    del self._released[subject]
            self._released_at = time.monotonic() if self._released else _NEVER
