"""Where a worker claims next, so that it does not read all open events each time. A scan with a position, and returns:

    ahead      the open events in order of id, from where the last window ended; events of busy subjects are skipped
    followers  events that were skipped of subjects whose delivery has ended
    retries    events whose backoff is over, and those that a person retried

Every nine seconds a full pass begins at the first open event. It finds whatever else was skipped, such as events that
another worker handed back. Which events of a window may be claimed is decided in `claims`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from sqlalchemy import Connection
from sqlalchemy.exc import TimeoutError as DatabaseTimeout

from sqlalchemy_outbox.claiming import claims, retries
from sqlalchemy_outbox.claiming.candidates import WindowKind
from sqlalchemy_outbox.claiming.claims import Claimed, Window
from sqlalchemy_outbox.claiming.watermark import Watermark
from sqlalchemy_outbox.database import transaction
from sqlalchemy_outbox.model import Event, Outbox, State
from sqlalchemy_outbox.settling.settlement import Settlement

# Events that a window holds beyond what may be claimed: enough to find others where subjects are busy.
_WINDOW_SPARE = 50
# The widest window, in events. Where one holds nothing to claim, the next one is twice as wide.
_WINDOW_MAX = 10_000
# The number of ids after which going back to the watermark costs more than reading it anew.
_WATERMARK_IDS = 1000
# The share of DEADLINE that all windows of a claim may take together.
BUDGET_SHARE = 0.8
_NEVER = float("inf")
_NO_ID = 2**62


@dataclass(frozen=True, slots=True)
class Pace:
    """When a scan turns to what it has skipped."""

    full_pass_every: timedelta = timedelta(seconds=9)
    """Shorter than the poll, so that each poll of an idle worker is a full pass."""
    followers_wait: timedelta = timedelta(seconds=1)
    """How long followers wait while there are events ahead."""
    retry_pause: timedelta = timedelta(seconds=1)
    """How soon retries are read again after they were found to wait for others."""
    subjects_max: int = 10_000
    """The most subjects that are remembered. Beyond them a full pass begins, which finds their followers too."""


PACE = Pace()


class Scan:
    """One worker's place in the outbox, or in the events of one `subject`."""

    def __init__(self, outbox: Outbox, subject: str | None = None, pace: Pace = PACE) -> None:
        self._outbox = outbox
        self._subject = subject
        self._pace = pace
        self._watermark = Watermark(outbox)
        self._watermark_position: int | None = None
        # The last id of `erasures` that a claim saw.
        self.last_mark = 0
        self._position = 0
        self._widening = 1
        self._is_at_end = False
        self._full_pass_at = time.monotonic()
        self._retry_at = 0.0
        self._no_retry_at = float("-inf")
        self._are_retries_first = True
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
        if self._is_far_from_watermark():
            self.refresh_watermark(connection)
        self._set_out()
        for window in self._windows(connection, types, limit):
            budget = BUDGET_SHARE * transaction.DEADLINE - timedelta(seconds=time.monotonic() - began_at)
            if budget <= timedelta(0):
                raise DatabaseTimeout("claiming takes too long, or waits for a table that is locked")
            claimed = claims.claim(
                connection, self._outbox, window, types=types, token=token, lease=lease, limit=limit, budget=budget
            )
            self._advance(window, claimed)
            self.last_mark = claimed.last_mark
            if claimed.events:
                return claimed.events
        return []

    def ended(self, events: Sequence[Event], settlements: Sequence[Settlement]) -> None:
        """Note how a claim's events left it: whose followers are free now, and what is due when."""
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
        """Begin a full pass at once."""
        self._full_pass_at = float("-inf")

    def seconds_to_next(self, connection: Connection) -> float | None:
        """Seconds until there may be an event to come back for; None when none is known."""
        seconds = retries.seconds_to_next_retry(connection, self._outbox)
        now = time.monotonic()
        earliest = self._no_retry_at + self._pace.retry_pause.total_seconds()
        self._retry_at = _NEVER if seconds is None else max(now + seconds, earliest)
        return None if seconds is None else self._retry_at - now

    @property
    def settled_to(self) -> int:
        """No id up to it may still appear, as far as is known."""
        return self._watermark.settled_to

    def refresh_watermark(self, connection: Connection) -> None:
        """Read the watermark. The older it is, the more ids each claim goes over again."""
        self._watermark.refresh(connection)
        self._watermark_position = self._position

    def _is_far_from_watermark(self) -> bool:
        if self._watermark_position is None:
            return True
        return self._position > max(self._watermark.settled_to, self._watermark_position + _WATERMARK_IDS)

    def _set_out(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._position = min(self._position, self._handed_back_id - 1)
            self._retry_at = min(self._retry_at, self._backs_off_until)
            self._handed_back_id, self._backs_off_until = _NO_ID, _NEVER
            is_due = now - self._full_pass_at > self._pace.full_pass_every.total_seconds()
            if is_due or len(self._released) > self._pace.subjects_max:
                self._full_pass_at = now
                self._position = min(self._position, self._watermark.first_open_id - 1)
                self._retry_at = 0.0
                self._released.clear()
                self._released_at = _NEVER
        self._is_at_end = False

    def _windows(self, connection: Connection, types: Sequence[str], limit: int) -> Iterator[Window]:
        if self._subject is not None:
            yield Window(WindowKind.FOLLOWERS, subjects={self._subject: 0}, size=_size(limit))
            return
        # In turns, so that neither a backlog nor a run of failures keeps the other waiting.
        self._are_retries_first = not self._are_retries_first
        if self._are_retries_first and self._is_retry_due():
            yield from self._retry_windows(connection, types, limit)
        if self._has_followers_waiting():
            yield self._followers_window(limit)
        while not self._is_at_end:
            size = max(_size(limit), min(_size(limit) * self._widening, _WINDOW_MAX))
            yield Window(WindowKind.AHEAD, after=self._position, first_open_id=self._watermark.first_open_id, size=size)
        while self._released:
            yield self._followers_window(limit)
        if self._is_retry_due():
            yield from self._retry_windows(connection, types, limit)

    def _retry_windows(self, connection: Connection, types: Sequence[str], limit: int) -> Iterator[Window]:
        """Retries that are due, each with its followers; a charged one is claimed by itself."""
        due = sorted(retries.due_retries(connection, self._outbox, types, _size(limit)))
        if due and due[0].attempt_count:
            due = due[:1]
        if subjects := {event.subject: event.id - 1 for event in due if due[0] is event or not event.attempt_count}:
            yield self._followers_of(subjects, _size(limit))
        # The window held nothing to claim.
        self._no_retry_at = time.monotonic()
        self.seconds_to_next(connection)

    def _followers_window(self, limit: int) -> Window:
        size = _size(limit)
        with self._lock:
            subjects = dict(islice(self._released.items(), size))
        return self._followers_of(subjects, size)

    def _followers_of(self, subjects: Mapping[str, int], size: int) -> Window:
        first_open_id = self._watermark.first_open_id
        return Window(WindowKind.FOLLOWERS, subjects=subjects, first_open_id=first_open_id, size=size)

    def _advance(self, window: Window, claimed: Claimed) -> None:
        if window.kind is WindowKind.AHEAD:
            self._position = claimed.used_up_to
            self._widening = 1 if claimed.events or claimed.is_end else self._widening * 2
            if claimed.is_end:
                self._position = min(self._position, self._watermark.settled_to)
                self._is_at_end = True
        elif window.kind is WindowKind.FOLLOWERS:
            self._forget_subjects(window, claimed)

    def _is_retry_due(self) -> bool:
        return self._retry_at <= time.monotonic()

    def _has_followers_waiting(self) -> bool:
        return time.monotonic() - self._released_at > self._pace.followers_wait.total_seconds()

    def _forget_subjects(self, window: Window, claimed: Claimed) -> None:
        """Forget subjects whose window held nothing, and those claimed: their deliveries release them again."""
        claimed_subjects = {event.subject for event in claimed.events}
        with self._lock:
            done = [
                subject
                for subject, after in window.subjects.items()
                if self._released.get(subject) == after and (claimed.is_used_up or subject in claimed_subjects)
            ]
            for subject in done:
                del self._released[subject]
            if done:
                self._released_at = time.monotonic() if self._released else _NEVER


def _size(limit: int) -> int:
    """A window's size, in events."""
    return limit + _WINDOW_SPARE
