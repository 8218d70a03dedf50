"""Our end of the processes that a live delivery takes: what delivers, and a HubSpot that it delivers to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine

from bench.live.drivers import Load


@dataclass(frozen=True, slots=True)
class Process:
    _process: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def start(cls, module: str, *arguments: str) -> Iterator[Process]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"bench.live.{module}", *arguments],
            cwd=Path(__file__).parents[2],
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
        """Its answer to a line; a process that has ended has said why on stderr."""
        requests = _open(self._process.stdin)
        requests.write(f"{line}\n")
        requests.flush()
        return self.next_line()

    def next_line(self) -> str:
        line = _open(self._process.stdout).readline()
        if not line:
            raise ProcessEnded(ProcessEnded.__doc__)
        return line.strip()


class ProcessEnded(Exception):
    """A process of the measurement ended instead of answering; its error is above."""


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@dataclass(frozen=True, slots=True)
class Spent:
    """What a delivery took: `processor` is the time of all threads of the process that delivered."""

    seconds: float
    processor: float
    requests: int


@dataclass(frozen=True, slots=True)
class Contender:
    process: Process

    @classmethod
    @contextmanager
    def start(cls, engine: Engine, hubspot: str) -> Iterator[Contender]:
        url = engine.url.render_as_string(hide_password=False)
        with Process.start("contender", url, hubspot) as process:
            yield cls(process)

    def deliver(self, batch_size: int, **settings: float) -> Spent:
        return Spent(**self._ask("deliver", batch_size=batch_size, **settings))

    def send(self, load: Load, batch_size: int) -> Spent:
        return Spent(**self._ask("send", load=asdict(load), batch_size=batch_size))

    def longest_hold_ms(self, batch_size: int) -> float:
        return float(self._ask("hold", batch_size=batch_size)["milliseconds"])

    def peak_mib(self) -> float:
        return float(self._ask("peak")["mebibytes"])

    def provision(self) -> None:
        self._ask("provision")

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.process.ask(json.dumps({"do": do, **arguments})))
        return answer
