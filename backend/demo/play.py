"""Playing a script: many drivers at a time, each in the order of their script."""

from __future__ import annotations

import asyncio
from collections import deque

from demo.client import NeravaClient
from demo.script import Part, Script

DRIVERS_AT_A_TIME = 24


class Tally:
    """How much of the script has been done; others can wait for a share of it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._awaited: list[tuple[float, asyncio.Event]] = []

    def count(self) -> None:
        self.done += 1
        for share, reached in self._awaited:
            if self.done >= share * self.total:
                reached.set()

    async def until(self, share: float) -> None:
        """Return when this share of the script is done."""
        reached = asyncio.Event()
        self._awaited.append((share, reached))
        if self.done < share * self.total:
            await reached.wait()


async def play(script: Script, client: NeravaClient, tally: Tally) -> None:
    """Play scene after scene; `tally` counts the actions. The first error ends all."""
    for scene in script.scenes:
        waiting = deque(scene)
        async with asyncio.TaskGroup() as group:
            for _ in range(DRIVERS_AT_A_TIME):
                group.create_task(_play_parts(waiting, client, tally))


async def _play_parts(waiting: deque[Part], client: NeravaClient, tally: Tally) -> None:
    while waiting:
        part = waiting.popleft()
        for action in part.actions:
            await client.act(part.driver, action)
            tally.count()
