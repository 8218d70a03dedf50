"""Words that name a forgotten subject, in what is told of others: a scan of bounded windows takes them out.

What a destination says of one event may name another one's record, and a person's reason anybody.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Table, Text, func, literal, or_, select, type_coerce, update

from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.text import AnyText

TAKEN_OUT = "[forgotten]"
# So many rows a transaction goes through.
_WINDOW = 10_000


class Wording(NamedTuple):
    """A table's columns that hold words, the column whose order a scan follows, and the rows that it is about."""

    table: Table
    order: Column[Any]
    columns: Sequence[Column[Any]]
    condition: ColumnElement[bool] | None = None


def wordings(outbox: Outbox) -> list[Wording]:
    """All that holds words. Of events only those that are open or failed have any; an index of each is relied on."""
    records, c = outbox.records, outbox.events.c
    d, links, discarded, audit = (
        table.c for table in (records.deliveries, records.delivery_events, records.discarded, records.audit)
    )
    of_events = (outbox.is_in_line(), outbox.is_set_apart(), c.failed_at.is_not(None))
    return [
        *(Wording(outbox.events, c.id, (c.last_error, c.failure_reason), it) for it in of_events),
        Wording(records.deliveries, d.id, (d.outcome, d.category, d.error)),
        Wording(records.delivery_events, links.event_id, (links.outcome,)),
        Wording(records.discarded, discarded.id, (discarded.last_error, discarded.failure_reason, discarded.reason)),
        Wording(records.audit, audit.id, (audit.reason, audit.detail)),
        Wording(outbox.waits, outbox.waits.c.key, (outbox.waits.c.reason,)),
        Wording(outbox.gate, outbox.gate.c.id, (outbox.gate.c.reason,)),
        Wording(records.closures, records.closures.c.began_at, (records.closures.c.reason,)),
    ]


class Scan:
    """Goes through all of them once, a step at a time, for several subjects; `counts` says in how many rows of each.

    `words` are those of each subject, by whatever it is known by here.
    """

    def __init__(self, outbox: Outbox, words: Mapping[int, Collection[str]]) -> None:
        self._owners: dict[str, int] = {}
        for owner, some in words.items():
            # What JSON holds is escaped.
            self._owners |= {text.lower(): owner for word in some if word for text in (word, json.dumps(word)[1:-1])}
        longest_first = sorted(self._owners, key=len, reverse=True)
        # Only where it stands by itself: a short id is a part of many a word.
        self._pattern = re.compile(rf"(?<![\w+-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE)
        self._left = wordings(outbox) if self._owners else []
        self._after: object = None
        self.counts: Counter[int] = Counter()

    @property
    def is_over(self) -> bool:
        return not self._left

    def step(self, connection: Connection) -> None:
        wording = self._left[0]
        order, conditions = wording.order, [] if wording.condition is None else [wording.condition]
        if self._after is not None:
            conditions.append(order > self._after)
        ahead = select(order).where(*conditions).order_by(order).offset(_WINDOW - 1).limit(1)
        end = connection.execute(ahead).scalar_one_or_none()
        if end is not None:
            conditions.append(order <= end)
        keys = list(wording.table.primary_key)
        found = select(*keys, *wording.columns).where(*conditions, self._has_any(wording, connection.dialect.name))
        for row in connection.execute(found).all():
            owners: set[int] = set()
            new = [None if text is None else self._taken_out(text, owners) for text in row[len(keys) :]]
            if owners:
                is_it = [key == value for key, value in zip(keys, row, strict=False)]
                values = dict(zip((column.name for column in wording.columns), new, strict=True))
                connection.execute(update(wording.table).where(*is_it).values(values))
                self.counts.update(owners)
        self._after = end
        if end is None:
            self._left = self._left[1:]

    def _has_any(self, wording: Wording, dialect_name: str) -> ColumnElement[bool]:
        find = func.instr if dialect_name == "sqlite" else func.strpos
        return or_(
            *(
                find(func.lower(type_coerce(column, Text)), func.lower(literal(word, AnyText()))) > 0
                for column in wording.columns
                for word in self._owners
            )
        )

    def _taken_out(self, text: str, owners: set[int]) -> str:
        def take_out(match: re.Match[str]) -> str:
            owners.add(self._owners.get(match[0].lower(), next(iter(self._owners.values()))))
            return TAKEN_OUT

        return self._pattern.sub(take_out, text)
