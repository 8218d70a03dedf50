"""A commit wakes the workers at once; the worker's own poll is the net when no wake-up reaches it."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from weakref import WeakSet

from outbox.model import Outbox


class WakeUp:
    """One worker's bell. It may be rung from any thread, and by a signal handler."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def ring(self) -> None:
        if self._loop is None or self._loop.is_closed():
            self._rung.set()
        else:
            self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self, longest: timedelta) -> None:
        """Return when the bell was rung since the last wait, or after `longest`."""
        self._loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(longest.total_seconds()):
                await self._rung.wait()
        self._rung.clear()


_lock = threading.Lock()
_bells: defaultdict[Outbox, WeakSet[WakeUp]] = defaultdict(WeakSet)


def subscribe(outbox: Outbox, bell: WakeUp) -> None:
    """Ring `bell` at every commit of this process that enqueued into `outbox`."""
    with _lock:
        _bells[outbox].add(bell)


def notify(outbox: Outbox) -> None:
    """Ring for the events that a commit has just made visible."""
    with _lock:
        bells = list(_bells[outbox])
    for bell in bells:
        bell.ring()
