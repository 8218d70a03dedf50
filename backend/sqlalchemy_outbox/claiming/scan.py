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
from sqlalchemy.exc import TimeoutError as DatabaseTimeout

from sqlalchemy_outbox.claiming import claims, pushed_back
from sqlalchemy_outbox.claiming.candidates import Window
from sqlalchemy_outbox.claiming.claims import Claimed, Look
from sqlalchemy_outbox.claiming.watermark import Horizon
from sqlalchemy_outbox.database import transaction
from sqlalchemy_outbox.model import Event, Outbox, State
from sqlalchemy_outbox.settling.settlement import Settlement

# Sooner than the poll, so that each poll of an idle worker is a lap.
LAP_EVERY = timedelta(seconds=9)
# A look reads so many events more than it may claim: enough to find others where subjects are busy.
_WINDOW_SPARE = 50
# Where a look finds nothing to claim, the next one is twice as wide, up to this.
_WINDOW_MAX = 10_000
# Followers wait this long while there are events ahead.
_FOLLOWERS_WAIT = timedelta(seconds=1)
# Rather than remember more subjects, a worker begins a new lap, which finds their followers too.
_SUBJECTS_MAX = 10_000
# A look for what comes again, which found that it has to wait for others, is not repeated sooner.
_AGAIN_PAUSE = timedelta(seconds=1)
# So many ids further, what the walk goes back over costs more than a new look at the horizon.
_HORIZON_IDS = 1000
# Of DEADLINE, for all looks of a claim together.
_PATIENCE_SHARE = 0.8
_NEVER = float("inf")
_NO_ID = 2**62


class Walk:
    """One worker's place in the outbox, or in the events of one `subject`."""

    def __init__(self, outbox: Outbox, subject: str | None = None) -> None:
        self._outbox = outbox
        self._subject = subject
        self._horizon = Horizon(outbox)
        self._horizon_position: int | None = None
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
        self._backs_off_until = _NEVER
        self._handed_back_id = _NO_ID

    def claim(
        self, connection: Connection, *, types: Sequence[str], token: str, lease: timedelta, limit: int
    ) -> list[Event]:
        """Claim up to `limit` events for `token`, from the first place that has any.

        Raises SQLAlchemy's TimeoutError when that takes long: its transaction is given up at DEADLINE, and what a claim
        took afterwards would be delivered by nobody.
        """
        began_at = time.monotonic()
        if self._is_far_from_horizon():
            self.look_at_horizon(connection)
        self._set_out()
        for look in self._looks(connection, types, limit):
            patience = _PATIENCE_SHARE * transaction.DEADLINE - timedelta(seconds=time.monotonic() - began_at)
            if patience <= timedelta(0):
                raise DatabaseTimeout("claiming takes too long, or waits for a table that is locked")
            claimed = claims.claim(
                connection, self._outbox, look, types=types, token=token, lease=lease, limit=limit, patience=patience
            )
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
                elif settlement.wait_seconds > 0:
                    self._backs_off_until = min(self._backs_off_until, now + settlement.wait_seconds)
                else:
                    self._handed_back_id = min(self._handed_back_id, event.id)
            if self._released:
                self._released_at = min(self._released_at, now)

    def restart(self) -> None:
        """Begin a new lap at once."""
        self._lap_at = float("-inf")

    def seconds_to_next(self, connection: Connection) -> float | None:
        """Seconds until there may be an event to come back for; None when none is known."""
        seconds = pushed_back.seconds_to_next_again(connection, self._outbox)
        now = time.monotonic()
        earliest = self._again_dry_at + _AGAIN_PAUSE.total_seconds()
        self._again_at = _NEVER if seconds is None else max(now + seconds, earliest)
        return None if seconds is None else self._again_at - now

    def look_at_horizon(self, connection: Connection) -> None:
        """Learn where the past ends. The longer ago that was, the more of it each claim goes over again."""
        self._horizon.refresh(connection)
        self._horizon_position = self._position

    def _is_far_from_horizon(self) -> bool:
        if self._horizon_position is None:
            return True
        return self._position > max(self._horizon.settled_to, self._horizon_position + _HORIZON_IDS)

    def _set_out(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._position = min(self._position, self._handed_back_id - 1)
            self._again_at = min(self._again_at, self._backs_off_until)
            self._handed_back_id, self._backs_off_until = _NO_ID, _NEVER
            if now - self._lap_at > LAP_EVERY.total_seconds() or len(self._released) > _SUBJECTS_MAX:
                self._lap_at = now
                self._position = min(self._position, self._horizon.floor - 1)
                self._again_at = 0.0
                self._released.clear()
                self._released_at = _NEVER
        self._is_at_end = False

    def _looks(self, connection: Connection, types: Sequence[str], limit: int) -> Iterator[Look]:
        if self._subject is not None:
            yield Look(Window.FOLLOWERS, subjects={self._subject: 0}, size=_size(limit))
            return
        # In turns, so that neither a backlog nor a run of failures keeps the other waiting.
        self._is_again_first = not self._is_again_first
        if self._is_again_first and self._is_again_due():
            yield from self._looks_again(connection, types, limit)
        if self._has_followers_waiting():
            yield self._look_at_followers(limit)
        while not self._is_at_end:
            size = max(_size(limit), min(_size(limit) * self._widening, _WINDOW_MAX))
            yield Look(Window.AHEAD, after=self._position, floor=self._horizon.floor, size=size)
        while self._released:
            yield self._look_at_followers(limit)
        if self._is_again_due():
            yield from self._looks_again(connection, types, limit)

    def _looks_again(self, connection: Connection, types: Sequence[str], limit: int) -> Iterator[Look]:
        """At those that come again, each with what follows it; that of a charged one is claimed by itself."""
        due = sorted(pushed_back.due_again(connection, self._outbox, types, _size(limit)))
        if due and due[0].attempt_count:
            due = due[:1]
        if subjects := {event.subject: event.id - 1 for event in due if due[0] is event or not event.attempt_count}:
            yield Look(Window.FOLLOWERS, subjects=subjects, floor=self._horizon.floor, size=_size(limit))
        # It brought nothing.
        self._again_dry_at = time.monotonic()
        self.seconds_to_next(connection)

    def _look_at_followers(self, limit: int) -> Look:
        size = _size(limit)
        with self._lock:
            subjects = dict(islice(self._released.items(), size))
        return Look(Window.FOLLOWERS, subjects=subjects, floor=self._horizon.floor, size=size)

    def _learn(self, look: Look, claimed: Claimed) -> None:
        if look.window is Window.AHEAD:
            self._position = claimed.used_up_to
            self._widening = 1 if claimed.events or claimed.is_end else self._widening * 2
            if claimed.is_end:
                self._position = min(self._position, self._horizon.settled_to)
                self._is_at_end = True
        elif look.window is Window.FOLLOWERS:
            self._forget_subjects(look, claimed)

    def _is_again_due(self) -> bool:
        return self._again_at <= time.monotonic()

    def _has_followers_waiting(self) -> bool:
        return time.monotonic() - self._released_at > _FOLLOWERS_WAIT.total_seconds()

    def _forget_subjects(self, look: Look, claimed: Claimed) -> None:
        """Those looked at in vain, and those claimed: their deliveries release them again."""
        claimed_subjects = {event.subject for event in claimed.events}
        with self._lock:
            done = [
                subject
                for subject, after in look.subjects.items()
                if self._released.get(subject) == after and (claimed.is_used_up or subject in claimed_subjects)
            ]
            for subject in done:
                del self._released[subject]
            if done:
                self._released_at = time.monotonic() if self._released else _NEVER


def _size(limit: int) -> int:
    """Of a window, in events."""
    return limit + _WINDOW_SPARE
