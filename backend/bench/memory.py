"""What a worker's memory does over a million events: `python -m bench.memory URL` is the worker."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine

from bench.figures import Demand, Figure
from bench.ground import Ground
from bench.table import OUTBOX, load, vacuum
from bench.worker import deliver_at_once, make_worker
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.outcome import Outcome
from sqlalchemy_outbox.waking import wakeup

_SUBJECTS = 20_000
_BATCH = 500
# A worker says its size this often, and first when it is warm.
_REPORT_EVERY = 50_000
_SMALL_BACKLOG = 1_000
_GROWTH = Demand(at_most=1.05)


def measure(ground: Ground) -> list[Figure]:
    events = ground.size(1_000_000, 200_000)
    with ground.database() as engine:
        load(engine, events, _SUBJECTS)
        vacuum(engine)
        with _reports(engine) as reports:
            large = [next(reports) for _ in range(events // _REPORT_EVERY)]
    ground.say(f"memory, a backlog of {events:,}: first {large[0]:.1f} MiB, last {large[-1]:.1f} MiB")
    with ground.database() as engine, _reports(engine, feeds=_REPORT_EVERY // _SMALL_BACKLOG) as reports:
        small = next(reports)
    ground.say(f"memory, a backlog of {_SMALL_BACKLOG:,}: {small:.1f} MiB")
    after = f"after {_REPORT_EVERY:,} events"
    return [
        Figure(f"a worker's memory after {events:,} events", after, "MiB", [large[-1]], [large[0]], _GROWTH),
        Figure(
            f"a worker's memory with a backlog of {events:,}",
            f"one that never exceeds {_SMALL_BACKLOG:,}",
            "MiB",
            [large[0]],
            [small],
            _GROWTH,
            f"resident, both {after}",
        ),
    ]


@contextmanager
def _reports(engine: Engine, feeds: int = 0) -> Iterator[Iterator[float]]:
    """The sizes that a worker's process says; it is fed so many small backlogs, each when the last is delivered."""
    url = engine.url.render_as_string(hide_password=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.memory", url, str(feeds)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield (float(line) for line in process.stdout)
    finally:
        process.kill()
        process.communicate()


def _resident_mib() -> float:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _work(engine: Engine, feeds: int) -> None:
    delivered = 0

    async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        nonlocal delivered
        before, delivered = delivered, delivered + len(claim.events)
        if delivered // _REPORT_EVERY > before // _REPORT_EVERY:
            print(_resident_mib(), flush=True)
        if delivered % _SMALL_BACKLOG == 0 and delivered // _SMALL_BACKLOG < feeds:
            await asyncio.to_thread(feed)
        return await deliver_at_once(claim, gate)

    def feed() -> None:
        load(engine, _SMALL_BACKLOG, _SUBJECTS)
        wakeup.wake(engine, OUTBOX)

    if feeds:
        load(engine, _SMALL_BACKLOG, _SUBJECTS)
    asyncio.run(make_worker(engine, deliver, batch_size=_BATCH).run())


if __name__ == "__main__":
    _work(create_engine(sys.argv[1]), int(sys.argv[2]))
