"""Delivered events keep that they set something, and lose what names a person, sooner than they are purged."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, or_, select, update

from sqlalchemy_outbox.housekeeping.purge import EVERY, is_old
from sqlalchemy_outbox.model import Event, Outbox, as_event, event_columns
from sqlalchemy_outbox.text import AnyText

# A transaction of this size holds its locks for a moment only.
_AT_ONCE = 500

Strip = Callable[[Event], str | None]
"""The event's payload without what names a person; None where it has nothing of that."""


class Stripping:
    """Goes once through what was delivered longer ago, the oldest first, and then after what becomes so old."""

    def __init__(self, outbox: Outbox, older_than: timedelta, strip: Strip) -> None:
        self._outbox = outbox
        self._older_than = older_than
        self._strip = strip
        self._after: tuple[datetime, int] | None = None
        self._over_at = float("-inf")
        self.is_over = False

    def is_due(self) -> bool:
        return not self.is_over or time.monotonic() - self._over_at >= EVERY.total_seconds()

    def step(self, connection: Connection) -> int:
        """Strip some; how many. Afterwards it `is_over`, or there may be more. Relies on ix_…_delivered."""
        c = self._outbox.events.c
        rows = connection.execute(self._next()).all()
        payloads = {row.id: self._strip(as_event(row[:-1])) for row in rows}
        stripped = [{"id_": id_, "new": payload} for id_, payload in payloads.items() if payload is not None]
        if stripped:
            is_it, new = c.id == bindparam("id_"), bindparam("new", type_=AnyText())
            connection.execute(update(self._outbox.events).where(is_it).values(payload=new), stripped)
        if rows:
            self._after = (rows[-1].processed_at, rows[-1].id)
        self.is_over, self._over_at = len(rows) < _AT_ONCE, time.monotonic()
        return len(stripped)

    def failed(self) -> None:
        """Take note that the last step was not committed: it is repeated after a while, from the beginning."""
        self._after = None
        self.is_over, self._over_at = True, time.monotonic()

    def _next(self) -> Select[Any]:
        c = self._outbox.events.c
        conditions = is_old(c.processed_at, self._older_than)
        if self._after is not None:
            at, id_ = self._after
            conditions = [*conditions, or_(c.processed_at > at, and_(c.processed_at == at, c.id > id_))]
        chosen = select(*event_columns(self._outbox), c.processed_at).where(*conditions)
        return chosen.order_by(c.processed_at, c.id).limit(_AT_ONCE).with_for_update(key_share=True)
