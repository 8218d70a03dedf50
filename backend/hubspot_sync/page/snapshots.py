"""The outbox's snapshot, read once a second for all who watch, and only while somebody does."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hubspot_sync.page.shutdown import server_is_stopping
from sqlalchemy_outbox.operations import Snapshot

SAMPLE_EVERY = timedelta(seconds=1)
SAMPLES_KEPT = 300
WATCHERS_MAX = 50
# For servers that do not say that they stop; the browser comes again and is told what it missed.
WATCH_LENGTH_MAX = timedelta(seconds=60)


class TooManyWatch(Exception):
    """There are as many streams as this process keeps open; one more would have to wait for another to end."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The snapshot at an instant (`at`, seconds since 1970), or None when the database did not say."""

    at: float
    snapshot: Snapshot | None


class Snapshots:
    def __init__(self, read: Callable[[], Snapshot], *, clock: Callable[[], float] = time.time) -> None:
        self._read = read
        self._clock = clock
        self._kept: deque[Sample] = deque(maxlen=SAMPLES_KEPT)
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._has_sampled = asyncio.Event()
        self._is_closed = False

    async def watch(self, after: float) -> AsyncGenerator[list[Sample]]:
        """First the samples kept since the instant `after`, then each as it comes; raises TooManyWatch.

        It ends by itself after a while, and when the server stops.
        """
        if self._watchers >= WATCHERS_MAX:
            raise TooManyWatch
        ends_at = time.monotonic() + WATCH_LENGTH_MAX.total_seconds()
        self._watchers += 1
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._take_samples())
            while not self._is_closed and not server_is_stopping() and time.monotonic() < ends_at:
                if self._kept and self._kept[-1].at < after:
                    # The clock was set back, and what is told by it begins anew.
                    after = float("-inf")
                if missed := [sample for sample in self._kept if sample.at > after]:
                    after = missed[-1].at
                    yield missed
                await self._has_sampled.wait()
        finally:
            self._watchers -= 1

    async def close(self) -> None:
        """End every watch."""
        self._is_closed = True
        self._has_sampled.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _take_samples(self) -> None:
        while self._watchers and not self._is_closed:
            began_at = time.monotonic()
            self._keep(Sample(self._clock(), await self._read_or_none()))
            self._has_sampled.set()
            self._has_sampled = asyncio.Event()
            await asyncio.sleep(max(0.0, SAMPLE_EVERY.total_seconds() - (time.monotonic() - began_at)))

    def _keep(self, sample: Sample) -> None:
        if self._kept and sample.at < self._kept[-1].at:
            self._kept.clear()
        self._kept.append(sample)

    async def _read_or_none(self) -> Snapshot | None:
        try:
            return await asyncio.to_thread(self._read)
        except (DBAPIError, PoolTimeout):
            return None
