"""A process that the demo started: its output line by line, and its certain end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from demo.errors import DemoFailed

# Time to end by itself; the database is thrown away, so nothing is lost by less.
STOP_DEADLINE = timedelta(seconds=3)
_LINES_KEPT = 40
_LINE_BYTES_MAX = 2**20


class ChildFailed(DemoFailed):
    """A process of the demo ended by itself or did not come up."""


class Child:
    """One process in a session of its own: a terminal's Ctrl-C reaches the demo alone, which stops its children."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, on_line: Callable[[str], None] | None) -> None:
        self.name = name
        self._process = process
        self._on_line = on_line
        self._last_lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None] | None = None,
    ) -> Child:
        """Run `python ARGUMENTS`; `on_line` is called with each line of its output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "demo.tether", str(os.getpid()), sys.executable, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            limit=_LINE_BYTES_MAX,
        )
        return cls(name, process, on_line)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    async def finish(self) -> None:
        """Wait for its end; raise ChildFailed, with its last words, unless that was a success."""
        await self._process.wait()
        await self._reader
        if self._process.returncode:
            raise self.failure(f"ended with exit code {self._process.returncode}")

    async def kill(self) -> None:
        """End it by SIGKILL, as a machine that loses power would."""
        self._process.kill()
        await self._process.wait()
        await self._reader

    async def stop(self) -> None:
        """End it; by SIGKILL where it does not end by itself in time."""
        if not self.has_ended:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_DEADLINE.total_seconds())
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reader

    def failure(self, what: str) -> ChildFailed:
        """An error that says `what` happened to this process, and what it said last."""
        said = "\n".join(f"  {line}" for line in self._last_lines) or "  (it wrote nothing)"
        return ChildFailed(f"The {self.name} {what}. Its last lines:\n{said}")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            if self._on_line is not None:
                self._on_line(text)
