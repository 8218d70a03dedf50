"""A commit wakes the workers at once; the worker's own poll is the net when no wake-up reaches it."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, Engine, event

from outbox.model import Outbox

if TYPE_CHECKING:
    from outbox.listener import Listener
    from outbox.notification import Notifier


class WakeUp:
    """One worker's bell. It may be rung from any thread, and by a signal handler."""

    def __init__(self) -> None:
        self._is_rung = False
        self._wakers: set[Callable[[], None]] = set()

    def ring(self) -> None:
        self._is_rung = True
        for waker in tuple(self._wakers):
            waker()

    @contextmanager
    def waking(self, waker: Callable[[], None]) -> Iterator[None]:
        """Have `waker` called when the bell is rung meanwhile, or was since somebody last waited for it."""
        self._wakers.add(waker)
        try:
            if self._is_rung:
                waker()
            yield
        finally:
            self._wakers.discard(waker)
            self._is_rung = False

    async def wait(self, longest: timedelta) -> None:
        """Return when the bell was rung since the last wait, or after `longest`."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()

        def waker() -> None:
            # Rung by a thread, it may be too late for a loop that has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(rung.set)

        with self.waking(waker), suppress(TimeoutError):
            async with asyncio.timeout(longest.total_seconds()):
                await rung.wait()


_lock = threading.Lock()
_bells: defaultdict[Outbox, WeakSet[WakeUp]] = defaultdict(WeakSet)
# An engine and those that `execution_options` made of it share their dialect, and one notifier.
_notifiers: dict[tuple[Dialect, Outbox], Notifier] = {}
# Engines whose disposal ends their notifiers.
_watched: WeakSet[Engine] = WeakSet()


def subscribe(outbox: Outbox, bell: WakeUp) -> None:
    """Ring `bell` at every commit of this process that enqueued into `outbox`."""
    with _lock:
        _bells[outbox].add(bell)


@contextmanager
def listening(engine: Engine, outbox: Outbox, bell: WakeUp) -> Iterator[Listener | None]:
    """A connection to claim by that hears of other processes' commits; None where the database cannot tell of them."""
    if engine.dialect.driver != "psycopg":
        yield None
        return
    from outbox.listener import Listener  # noqa: PLC0415  # It needs psycopg, which only PostgreSQL's users install.

    listener = Listener(engine, outbox.name, bell)
    try:
        yield listener
    finally:
        listener.close()


def tells_of_commits(connection: Connection) -> bool:
    """Whether a worker that listens by such a connection hears of other processes' commits."""
    if connection.dialect.driver != "psycopg":
        return False
    from outbox.pooler import is_pooled  # noqa: PLC0415  # As above.

    return not is_pooled(connection)


def wake(engine: Engine, outbox: Outbox) -> None:
    """Wake every worker of `outbox`, in this process and in others, for what a commit has just made visible."""
    with _lock:
        bells = list(_bells[outbox])
    for bell in bells:
        bell.ring()
    if engine.dialect.driver in ("psycopg", "psycopg_async"):
        _notifier(engine, outbox).notify()


def _notifier(engine: Engine, outbox: Outbox) -> Notifier:
    with _lock:
        if engine not in _watched:
            _watched.add(engine)
            event.listen(engine, "engine_disposed", _dispose)
        if (notifier := _notifiers.get((engine.dialect, outbox))) is None:
            from outbox.notification import Notifier  # noqa: PLC0415  # As above.

            notifier = _notifiers[engine.dialect, outbox] = Notifier(engine, outbox.name)
        return notifier


def _dispose(engine: Engine) -> None:
    with _lock:
        ended = [_notifiers.pop(key) for key in list(_notifiers) if key[0] is engine.dialect]
    for notifier in ended:
        notifier.close()


def _begin_anew() -> None:
    # A forked child has its parent's connections, but not the threads that use them.
    _notifiers.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    # No other thread is to hold the lock in the child, where nobody would let go of it.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_begin_anew)


@atexit.register
def _dispose_all() -> None:
    # A script's last commit is notified before the script ends.
    for notifier in list(_notifiers.values()):
        notifier.close()
