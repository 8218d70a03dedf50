"""Another process that claims: `python -m bench.claimant worker|bare URL`. It prints a line for each event it claims.

`worker` is the outbox's own; `bare` is a loop over LISTEN that claims by hand. Both say what the clock showed when they
had the event in hand, and the worker at each step on the way there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

from sqlalchemy import Engine, create_engine, event

from bench import raw
from bench.worker import deliver_at_once, make_worker
from outbox import notification
from outbox.destination import Claim
from outbox.gate import Gate
from outbox.outcome import Outcome

CHANNEL = "bench"
IN_HAND = "in hand"
Moments = dict[str, float]
"""What the machine's monotonic clock showed at each step of a claim, in seconds."""

_READY = "ready"
_STEPS = ("notification heard", "connection had", "claim sent", "claim answered")


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


@dataclass(slots=True)
class _Noted:
    """The first moment of each step since a notification was heard."""

    moments: dict[str, float] = field(default_factory=dict)

    def begin(self, step: str) -> None:
        self.moments = {step: time.monotonic()}

    def note(self, step: str, *_: object) -> None:
        self.moments.setdefault(step, time.monotonic())


def _claim_as_worker(url: str) -> None:
    engine = create_engine(url)
    noted = _Noted()

    async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        moments = noted.moments | {IN_HAND: time.monotonic()}
        for it in claim.events:
            _say(it.payload, moments)
        return await deliver_at_once(claim, gate)

    async def listen(engine: Engine, channel: str, ring: Callable[[], None]) -> None:
        def hear() -> None:
            noted.begin(_STEPS[0])
            ring()

        await original_listen(engine, channel, hear)

    original_listen = notification.listen
    for step, name in zip(_STEPS[1:], ("checkout", "before_cursor_execute", "after_cursor_execute"), strict=True):
        event.listen(engine, name, partial(noted.note, step))
    # As the command `worker` does.
    gc.collect()
    gc.freeze()
    print(_READY, flush=True)
    with patch.object(notification, "listen", listen):
        asyncio.run(make_worker(engine, deliver).run())


if __name__ == "__main__":
    _kind, _url = sys.argv[1:]
    _claim_bare(_url) if _kind == "bare" else _claim_as_worker(_url)
