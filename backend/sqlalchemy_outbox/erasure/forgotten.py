"""Whose events a worker refuses, whoever stored them: what it learns of forgotten subjects, as its claims see them.

A claim tells the last mark that it saw. Where that is new, the worker reads the marks since before anything is
delivered; so no event that was stored after its subject was forgotten is delivered by a claim that could see it.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence

from sqlalchemy import Connection, select

from sqlalchemy_outbox.model import ERASURE, Event, Outbox

log = logging.getLogger(__name__)

# Marks that are read at once.
_PAGE_SIZE = 10_000


class Forgotten:
    """One worker's. It remembers eight bytes of each name, and asks the database about what seems to be one."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._last_mark = 0
        self._beginnings = array("Q")

    def learn(self, connection: Connection, last_mark: int) -> None:
        """Read the marks up to this one, if it is new. Relies on the primary key."""
        c = self._outbox.erasures.c
        while last_mark > self._last_mark:
            page = select(c.id, c.name).where(c.id > self._last_mark).order_by(c.id).limit(_PAGE_SIZE)
            rows = connection.execute(page).all()
            if not self._last_mark and not self._outbox.names.has_key:
                log.error("Subjects were forgotten, and this worker lacks the key by which it would know their events.")
            if len(rows) < _PAGE_SIZE and self._beginnings:
                for row in rows:
                    insort(self._beginnings, _beginning_of(row.name))
            else:
                known = [*self._beginnings, *(_beginning_of(row.name) for row in rows)]
                self._beginnings = array("Q", sorted(known))
            self._last_mark = max([last_mark if len(rows) < _PAGE_SIZE else 0, *(row.id for row in rows)])

    def among(self, connection: Connection, events: Sequence[Event]) -> dict[int, str]:
        """Those of the events, by `id`, that are to be refused, each with its subject's name."""
        if not self._beginnings or not self._outbox.names.has_key:
            return {}
        names = {event.id: self._outbox.names.of(event.subject) for event in events if event.event_type != ERASURE}
        seem = {id_: name for id_, name in names.items() if name is not None and self._may_be(name)}
        if not seem:
            return {}
        c = self._outbox.erasures.c
        found = set(connection.execute(select(c.name).where(c.name.in_(set(seem.values())))).scalars())
        return {id_: name for id_, name in seem.items() if name in found}

    def _may_be(self, name: str) -> bool:
        beginning = _beginning_of(name)
        position = bisect_left(self._beginnings, beginning)
        return position < len(self._beginnings) and self._beginnings[position] == beginning


def _beginning_of(name: str) -> int:
    return int(name.rpartition(":")[2][:16], 16)
