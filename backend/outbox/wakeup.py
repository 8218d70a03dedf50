"""A commit wakes the workers at once; the worker's own poll is the net when no wake-up reaches it."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING
from weakref import WeakSet

from sqlalchemy import Engine, event

from outbox.model import Outbox

if TYPE_CHECKING:
    from outbox.notification import Notifier


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
_notifiers: dict[tuple[Engine, Outbox], Notifier] = {}


def subscribe(outbox: Outbox, bell: WakeUp) -> None:
    """Ring `bell` at every commit of this process that enqueued into `outbox`."""
    with _lock:
        _bells[outbox].add(bell)


@asynccontextmanager
async def listening(engine: Engine, outbox: Outbox, bell: WakeUp) -> AsyncIterator[None]:
    """Meanwhile, ring `bell` at the commits of other processes too, where the database can tell of them."""
    if not _can_notify(engine):
        yield
        return
    task = asyncio.create_task(_notification().listen(engine, outbox.name, bell.ring))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def wake(engine: Engine, outbox: Outbox) -> None:
    """Wake every worker of `outbox`, in this process and in others, for what a commit has just made visible."""
    with _lock:
        bells = list(_bells[outbox])
    for bell in bells:
        bell.ring()
    if _can_notify(engine):
        _notifier(engine, outbox).notify()


def _notifier(engine: Engine, outbox: Outbox) -> Notifier:
    with _lock:
        if (notifier := _notifiers.get((engine, outbox))) is None:
            notifier = _notifiers[engine, outbox] = _notification().Notifier(engine, outbox.name)
            event.listen(engine, "engine_disposed", lambda _: _dispose(engine, outbox))
        return notifier


def _dispose(engine: Engine, outbox: Outbox) -> None:
    with _lock:
        notifier = _notifiers.pop((engine, outbox), None)
    if notifier is not None:
        notifier.close()


@atexit.register
def _dispose_all() -> None:
    # A script's last commit is notified before the script ends.
    for engine, outbox in list(_notifiers):
        _dispose(engine, outbox)


def _can_notify(engine: Engine) -> bool:
    return engine.dialect.driver in ("psycopg", "psycopg_async")


def _notification() -> ModuleType:
    from outbox import notification  # noqa: PLC0415  # It needs psycopg, which only PostgreSQL's users install.

    return notification
