"""Another process that claims: `python -m bench.claimant worker|bare URL`. It prints a line for each event it claims.

`worker` is the outbox's own; `bare` is a loop over LISTEN that claims by hand. Both say what the clock showed when they
had the event in hand.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine

from bench import raw
from bench.worker import deliver_at_once, make_worker
from outbox.destination import Claim
from outbox.gate import Gate
from outbox.outcome import Outcome

CHANNEL = "bench"
_READY = "ready"


@dataclass(frozen=True, slots=True)
class Claimant:
    """Our end of such a process."""

    process: subprocess.Popen[str]

    @classmethod
    @contextmanager
    def start(cls, kind: str, url: str) -> Iterator[Claimant]:
        command = [sys.executable, "-m", "bench.claimant", kind, url]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == _READY
            yield cls(process)
        finally:
            process.kill()
            process.communicate()

    def next_claim(self) -> tuple[int, float]:
        """The number that the next event carries, and the moment of its claim on the machine's monotonic clock."""
        assert self.process.stdout is not None
        number, moment = self.process.stdout.readline().split()
        return int(number), float(moment)


def _say(payload: str, moment: float) -> None:
    print(json.loads(payload)["n"], moment, flush=True)


def _claim_bare(url: str) -> None:
    with raw.connect(url) as claiming, raw.connect(url) as listening, claiming.cursor(binary=True) as cursor:
        listening.execute(f"LISTEN {CHANNEL}")
        print(_READY, flush=True)
        for _ in listening.notifies():
            while events := _claim_once(cursor):
                raw.settle(cursor, *events)


def _claim_once(cursor: raw.Cursor) -> tuple[list[int], str] | None:
    events, token = raw.claim(cursor, 50)
    moment = time.monotonic()
    for event in events:
        _say(event.payload, moment)
    return ([event.id for event in events], token) if events else None


def _claim_as_worker(url: str) -> None:
    async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        moment = time.monotonic()
        for event in claim.events:
            _say(event.payload, moment)
        return await deliver_at_once(claim, gate)

    # As the command `worker` does.
    gc.collect()
    gc.freeze()
    print(_READY, flush=True)
    asyncio.run(make_worker(create_engine(url), deliver).run())


if __name__ == "__main__":
    _kind, _url = sys.argv[1:]
    _claim_bare(_url) if _kind == "bare" else _claim_as_worker(_url)
