"""Playing a script: many drivers at a time, each in the order of their script."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from demo.client import NeravaClient, SignedInDriver
from demo.script import DriverScript, Script

DRIVERS_AT_A_TIME = 24

T = TypeVar("T")


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
    """Sign everybody up, then let them act; `tally` counts each sign-up and action."""
    signed_in: list[SignedInDriver] = []

    async def sign_up(driver: DriverScript) -> None:
        signed_in.append(await client.sign_up(driver))
        tally.count()

    async def act(driver: SignedInDriver) -> None:
        for action in driver.script.actions:
            await client.act(driver, action)
            tally.count()

    await _for_each(script.drivers, sign_up)
    # Those with most to do begin, so that the hub is full to the end.
    await _for_each(sorted(signed_in, key=lambda it: (-len(it.script.actions), it.script.number)), act)


async def _for_each(items: Iterable[T], do: Callable[[T], Awaitable[None]]) -> None:
    """Do it for every item, a fixed number at a time; the first error ends all."""
    waiting = deque(items)

    async def work() -> None:
        while waiting:
            await do(waiting.popleft())

    async with asyncio.TaskGroup() as group:
        for _ in range(DRIVERS_AT_A_TIME):
            group.create_task(work())
