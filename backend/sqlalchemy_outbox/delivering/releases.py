"""Looks at what events were set apart for, and releases them once the destination says that it is there.

Each worker looks at its poll; of all workers one looks at a key at a time, and the next one goes on where one died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Engine

from sqlalchemy_outbox.database.transaction import transact
from sqlalchemy_outbox.delivering.retrying import DATABASE_ERRORS, first_line
from sqlalchemy_outbox.destination import IsOver
from sqlalchemy_outbox.gate.gate import Gate, GateShut
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.settling import waits

log = logging.getLogger(__name__)

# Together with `waits.LOOK_EVERY` and the poll of an idle worker, events go on well within a minute.
LOOK_POLL = timedelta(seconds=10)
# A line that is longer than so many steps is looked through by several looks.
_STEPS_MAX = 10


class Releases:
    """One worker's looks. Without `is_over` it releases nothing; `on_release` is called after each key released."""

    def __init__(
        self, outbox: Outbox, engine: Engine, gate: Gate, is_over: IsOver | None, on_release: Callable[[], None]
    ) -> None:
        self._outbox = outbox
        self._engine = engine
        self._gate = gate
        self._is_over = is_over
        self._on_release = on_release
        # Up to this id the line was looked through for what has to wait behind another event.
        self._after = 0

    async def keep_looking(self) -> None:
        """Look until cancelled, at first in a hurry: a person may have mended something, and started this worker."""
        is_hurried = True
        while True:
            try:
                await self.look(is_hurried=is_hurried)
                is_hurried = False
            except DATABASE_ERRORS as error:
                log.debug("Could not look at what events wait for: %s", first_line(error))
            await asyncio.sleep(LOOK_POLL.total_seconds())

    async def look(self, *, is_hurried: bool = False) -> None:
        """Ask about what it is time to ask about, or about all in a hurry; nothing while the gate is shut."""
        if self._is_over is None or self._gate.shut_for() > timedelta(0):
            return
        keys = await transact(self._engine, waits.take_due, self._outbox, is_hurried=is_hurried)
        for key in keys:
            try:
                is_over = await self._is_over(key, self._gate)
            except GateShut:
                return
            if is_over:
                await self._release(key)
            else:
                await transact(self._engine, waits.tidy, self._outbox, key)
        if keys:
            await self._set_apart_behind()

    async def _release(self, key: str) -> None:
        log.info("Events go on, for what they waited for is there: %s", key)
        while await transact(self._engine, waits.release, self._outbox, key):
            # Before the last of many is released, the first are delivered.
            self._on_release()
        self._on_release()

    async def _set_apart_behind(self) -> None:
        """Go on along the line, or begin at its front again."""
        for _ in range(_STEPS_MAX):
            last_id = await transact(self._engine, waits.set_apart_behind, self._outbox, self._after)
            self._after = last_id or 0
            if last_id is None:
                return
