"""Our end of the processes that a live delivery takes: what delivers, and a HubSpot that it delivers to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from sqlalchemy import Engine

from bench.live.drivers import Load
from bench.process import Process


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
        with Process.start("live.contender", url, hubspot) as process:
            yield cls(process)

    def deliver(self, batch_size: int, **settings: float) -> Spent:
        return Spent(**self.process.ask_for("deliver", batch_size=batch_size, **settings))

    def send(self, load: Load, batch_size: int) -> Spent:
        return Spent(**self.process.ask_for("send", load=asdict(load), batch_size=batch_size))

    def longest_hold_ms(self, batch_size: int) -> float:
        return float(self.process.ask_for("hold", batch_size=batch_size)["milliseconds"])

    def peak_mib(self) -> float:
        return float(self.process.ask_for("peak")["mebibytes"])

    def provision(self) -> None:
        self.process.ask_for("provision")
