"""Our end of a process of a measurement: a module of bench's that answers lines by lines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

BACKEND = Path(__file__).parents[1]


class ProcessEnded(Exception):
    """A process of the measurement ended instead of answering; its error is above."""


@dataclass(frozen=True, slots=True)
class Process:
    _process: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def start(cls, module: str, *arguments: str, python: str | Path = sys.executable) -> Iterator[Process]:
        """Run `bench.{module}`, and end it with the block."""
        process = subprocess.Popen(
            [python, "-m", f"bench.{module}", *arguments],
            cwd=BACKEND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield cls(process)
        finally:
            process.kill()
            process.communicate()

    def ask(self, line: str = "") -> str:
        """Its answer to a line; raises ProcessEnded."""
        requests = _open(self._process.stdin)
        requests.write(f"{line}\n")
        requests.flush()
        return self.next_line()

    def ask_for(self, do: str, **arguments: object) -> dict[str, Any]:
        """Its answer to a request, both in JSON; raises ProcessEnded."""
        answer: dict[str, Any] = json.loads(self.ask(json.dumps({"do": do, **arguments})))
        return answer

    def next_line(self) -> str:
        line = _open(self._process.stdout).readline()
        if not line:
            raise ProcessEnded(ProcessEnded.__doc__)
        return line.strip()


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
