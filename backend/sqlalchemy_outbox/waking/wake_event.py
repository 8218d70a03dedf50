"""An event that wakes one worker, set by any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta


class WakeEvent:
    """One worker's. It may be set from any thread, and by a signal handler."""

    def __init__(self) -> None:
        self._is_set = False
        self._wakers: set[Callable[[], None]] = set()

    def set(self) -> None:
        self._is_set = True
        for waker in tuple(self._wakers):
            waker()

    @contextmanager
    def waking(self, waker: Callable[[], None]) -> Iterator[None]:
        """Call `waker` when the event is set meanwhile, or at once if it was set since the last wait."""
        self._wakers.add(waker)
        try:
            if self._is_set:
                waker()
            yield
        finally:
            self._wakers.discard(waker)
            self._is_set = False

    async def wait(self, longest: timedelta) -> None:
        """Return when the event was set since the last wait, or after `longest`."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def waker() -> None:
            # A thread may set it after the loop has ended.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(woken.set)

        with self.waking(waker), suppress(TimeoutError):
            async with asyncio.timeout(longest.total_seconds()):
                await woken.wait()
