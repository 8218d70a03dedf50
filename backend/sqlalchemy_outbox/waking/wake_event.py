"""An event that wakes one worker, set by any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta


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
