"""What goes wrong with events, in the log: a few of a kind one by one, and a storm of them as one line with a count."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy_outbox.model import ATTEMPTS_MAX, Event, State
from sqlalchemy_outbox.reason import reason_of
from sqlalchemy_outbox.settling.settlement import Settled, Settlement

log = logging.getLogger(__name__)

# Enough to look one up; what is wrong with a thousand is the same as with these.
NAMED_MAX = 5
COUNT_EVERY = timedelta(minutes=1)


@dataclass(slots=True)
class _Storm:
    """Failures of one kind since `began_at`; those beyond the named ones are only counted."""

    began_at: float
    named: int = 0
    counted: int = 0


class FailureLog:
    """One worker's. `clock` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._storms: dict[tuple[State, str], _Storm] = {}

    def note(self, events: Sequence[Settled]) -> None:
        """Log those that failed or were charged; say nothing of the others."""
        for event in events:
            # Refusals are nobody's failure, and there may be many.
            if event.is_charged and not event.is_refusal:
                self._note_one(event.event, event.settlement)

    def count(self) -> None:
        """Log how many were not named, of every kind whose minute is over."""
        self._count(self._clock() - COUNT_EVERY.total_seconds())

    def close(self) -> None:
        """Log how many were not named, of every kind."""
        self._count(self._clock())

    def _note_one(self, event: Event, settlement: Settlement) -> None:
        kind = (settlement.state, reason_of(settlement.last_error or ""))
        storm = self._storms.setdefault(kind, _Storm(self._clock()))
        if storm.named >= NAMED_MAX:
            storm.counted += 1
            return
        storm.named += 1
        fields = {
            "event_id": str(event.event_id),
            "event_type": event.event_type,
            "subject": event.subject,
            "attempt": settlement.attempt_count,
        }
        if event.traceparent:
            fields["trace_id"] = event.traceparent.split("-")[1]
        if settlement.state is State.FAILED:
            log.warning("Event %s failed: %s", event.event_id, settlement.last_error, extra=fields)
        else:
            tries = (event.event_id, settlement.attempt_count, ATTEMPTS_MAX)
            log.info("Event %s is tried again after attempt %d of %d: %s", *tries, settlement.last_error, extra=fields)

    def _count(self, until: float) -> None:
        for kind, storm in list(self._storms.items()):
            if storm.began_at > until:
                continue
            del self._storms[kind]
            if storm.counted:
                self._say_count(*kind, storm)

    def _say_count(self, state: State, reason: str, storm: _Storm) -> None:
        fields = {"events": storm.counted, "reason": reason, "seconds": round(self._clock() - storm.began_at)}
        if state is State.FAILED:
            log.warning("%d more events failed: %s", storm.counted, reason, extra=fields)
        else:
            log.info("%d more events are tried again: %s", storm.counted, reason, extra=fields)
