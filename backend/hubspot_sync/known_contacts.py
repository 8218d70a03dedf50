"""The contacts that this process has written lately, by their subjects: so that words about a subject can name hers."""

from __future__ import annotations

from collections import OrderedDict

# A worker remembers so many contacts, at about a hundred bytes each.
CONTACTS_MAX = 20_000


class KnownContacts:
    def __init__(self) -> None:
        self._record_ids: OrderedDict[str, str] = OrderedDict()

    def note(self, subject: str, record_id: str) -> None:
        self._record_ids.pop(subject, None)
        self._record_ids[subject] = record_id
        if len(self._record_ids) > CONTACTS_MAX:
            self._record_ids.popitem(last=False)

    def record_of(self, subject: str) -> str | None:
        return self._record_ids.get(subject)
