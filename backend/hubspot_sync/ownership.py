"""Whose contact is whose: two subjects of one address take it from each other, and a person should know."""

from __future__ import annotations

import logging
from collections import OrderedDict

log = logging.getLogger(__name__)

# A worker remembers so many contacts, at about a hundred bytes each.
CONTACTS_MAX = 20_000


class Ownership:
    """The subject that each contact was last written for, as far as this process wrote it. The last writer owns it."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, str] = OrderedDict()

    def note(self, record_id: str, subject: str) -> None:
        """Warn when the contact was another subject's until now."""
        before = self._owners.pop(record_id, subject)
        self._owners[record_id] = subject
        if len(self._owners) > CONTACTS_MAX:
            self._owners.popitem(last=False)
        if before != subject:
            log.warning(
                "Contact %s was %s's and is now %s's: both have its email. The last one delivered owns it.",
                *(record_id, before, subject),
                extra={"record_id": record_id, "subject": subject, "subject_before": before},
            )

    def record_of(self, subject: str) -> str | None:
        """The contact that was last written for the subject; None where that is not known."""
        return next((record_id for record_id, owner in reversed(self._owners.items()) if owner == subject), None)
