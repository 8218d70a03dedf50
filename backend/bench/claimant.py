"""Another process that claims: `python -m bench.claimant KIND URL`. It prints a line for each event it claims.

`worker` is the outbox's own; `bare` is a loop over LISTEN that claims by hand. Both say what the clock showed when they
had the event in hand; a `noted` worker, which that makes slower, also says it of each step on the way there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

from sqlalchemy import Connection, Engine, create_engine

from bench import raw
from bench.worker import deliver_at_once, make_worker
from instruments.statements import Run, intercept
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.outcome import Outcome
from sqlalchemy_outbox.waking import listener
from sqlalchemy_outbox.waking.listener import Listener

CHANNEL = "bench"
IN_HAND = "in hand"
Moments = dict[str, float]
"""What the machine's monotonic clock showed at each step of a claim, in seconds."""

_READY = "ready"
_STEPS = ("notification heard", "claim sent", "claim answered")


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

    def next_claim(self) -> tuple[int, Moments]:
        """The number that the next event carries, and the moments of its claim."""
        assert self.process.stdout is not None
        number, moments = json.loads(self.process.stdout.readline())
        return number, moments


def _say(payload: str, moments: Moments) -> None:
    print(json.dumps([json.loads(payload)["n"], moments]), flush=True)


def _claim_bare(url: str) -> None:
    with raw.connect(url) as claiming, raw.connect(url) as listening, claiming.cursor(binary=True) as cursor:
        listening.execute(f"LISTEN {CHANNEL}")
        print(_READY, flush=True)
        for _ in listening.notifies():
            while events := _claim_once(cursor):
                raw.settle(cursor, *events)


def _claim_once(cursor: raw.Cursor) -> tuple[list[int], str] | None:
    events, token = raw.claim(cursor, 50)
    moments = {IN_HAND: time.monotonic()}
    for it in events:
        _say(it.payload, moments)
    return ([it.id for it in events], token) if events else None


def _claim_as_worker(engine: Engine, moments: Moments) -> None:
    async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        in_hand = moments | {IN_HAND: time.monotonic()}
        for it in claim.events:
            _say(it.payload, in_hand)
        return await deliver_at_once(claim, gate)

    # As the command `worker` does.
    gc.collect()
    gc.freeze()
    print(_READY, flush=True)
    asyncio.run(make_worker(engine, deliver).run())


@contextmanager
def _noting(engine: Engine, moments: Moments) -> Iterator[None]:
    """Keep in `moments` the first of each step since a notification was heard."""

    class NotedListener(Listener):
        @contextmanager
        def connection(self, longest: timedelta) -> Iterator[Connection]:
            with super().connection(longest) as connection:
                moments.clear()
                moments[_STEPS[0]] = time.monotonic()
                yield connection

    def note(_sql: str, _parameters: object, run: Run) -> None:
        moments.setdefault(_STEPS[1], time.monotonic())
        run()
        moments.setdefault(_STEPS[2], time.monotonic())

    with intercept(engine, note), patch.object(listener, "Listener", NotedListener):
        yield


def _main(kind: str, url: str) -> None:
    if kind == "bare":
        _claim_bare(url)
        return
    engine, moments = create_engine(url), Moments()
    with _noting(engine, moments) if kind == "noted" else nullcontext():
        _claim_as_worker(engine, moments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
