"""Whose contact is whose: two subjects of one address take it from each other, and a person should know."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

log = logging.getLogger(__name__)

# A worker remembers so many contacts, at about a hundred bytes each.
CONTACTS_MAX = 20_000


# Two that share an address take it from each other by every delivery; so many are named, the others counted.
NAMED_MAX = 5
NAMED_PER = timedelta(minutes=1)


class Ownership:
    """The subject that each contact was last written for, as far as this process wrote it. The last writer owns it.

    `clock` gives seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._minute_began_at = float("-inf")
        self._changes = 0

    def note(self, record_id: str, subject: str) -> None:
        """Warn when the contact was another subject's until now."""
        before = self._owners.pop(record_id, subject)
        self._owners[record_id] = subject
        if len(self._owners) > CONTACTS_MAX:
            self._owners.popitem(last=False)
        if before != subject:
            self._warn(record_id, before, subject)

    def _warn(self, record_id: str, before: str, subject: str) -> None:
        now = self._clock()
        if now - self._minute_began_at > NAMED_PER.total_seconds():
            if (unnamed := self._changes - NAMED_MAX) > 0:
                log.warning("%d more times a contact became another subject's.", unnamed, extra={"times": unnamed})
            self._minute_began_at, self._changes = now, 0
        self._changes += 1
        if self._changes <= NAMED_MAX:
            log.warning(
                "Contact %s was %s's and is now %s's: both have its email. The last one delivered owns it.",
                *(record_id, before, subject),
                extra={"record_id": record_id, "subject": subject, "subject_before": before},
            )
