"""How long a claim takes after many, while an old snapshot keeps every dead row and index entry in place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from bench.figures import Demand, Figure
from bench.ground import Ground
from bench.table import EVENT_TYPE, OUTBOX, PAYLOAD, load, vacuum
from bench.worker import deliver_at_once, in_thread, make_worker
from instruments.statements import Log, explain, watch
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.outcome import Outcome

# Chunks are enqueued whole and then delivered whole, so that every claim is a full batch.
_CHUNK = 1_000
_COMPARED_CHUNKS = 20
_RUNS = 3
_WARM_UP_CHUNKS = 5
# A claim that slows with every event would not come to an end.
_SECONDS_MAX = 150


@dataclass(slots=True)
class Runner:
    """A worker that runs in a thread, and is fed."""

    engine: Engine
    delivered: int = 0
    wanted: int = 0
    is_served: threading.Event | None = None

    def cycle(self, subjects: int) -> float:
        """Enqueue a chunk and wait until it is delivered; the seconds that took."""
        self.is_served = threading.Event()
        first = self.wanted
        self.wanted += _CHUNK
        began_at = time.perf_counter()
        with Session(self.engine) as session:
            for n in range(first, self.wanted):
                enqueue(session, OUTBOX, EVENT_TYPE, f"driver-{n % subjects}", PAYLOAD)
            session.commit()
        self.is_served.wait()
        return time.perf_counter() - began_at

    async def deliver(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        outcomes = await deliver_at_once(claim, gate)
        self.delivered += len(outcomes)
        if self.delivered == self.wanted and self.is_served is not None:
            self.is_served.set()
        return outcomes


@dataclass(slots=True)
class LongRun:
    """Of each thousand events their median claim, and their enqueue and delivery; milliseconds."""

    runner: Runner
    log: Log
    subjects: int
    claims: list[float] = field(default_factory=list)
    cycles: list[float] = field(default_factory=list)

    def cycle(self) -> None:
        self.log.statements.clear()
        self.cycles.append(1000 * self.runner.cycle(self.subjects))
        self.claims.append(1000 * median(self.log.claim_seconds()))


def measure(ground: Ground, subjects: int, batch_size: int) -> list[Figure]:
    """The end of a long run beside the beginning of another: the machine's moods change within one."""
    grown: list[LongRun] = []
    young: list[LongRun] = []
    last_claim = ""
    compared = ground.size(_COMPARED_CHUNKS, 4)
    for _ in range(ground.size(_RUNS, 1)):
        with _with_horizon_held(ground, subjects, batch_size) as run:
            _grow(ground, run, ground.size(200_000, 20_000) // _CHUNK - compared)
            with _with_horizon_held(ground, subjects, batch_size) as beginning:
                for _ in range(compared):
                    beginning.cycle()
                    run.cycle()
            # Of these nobody is told, so that the claim which is explained finds them.
            load(run.runner.engine, _CHUNK, subjects)
            last_claim = explain(run.runner.engine, run.log.claims()[-1])
        grown.append(run)
        young.append(beginning)
        ratio = median(run.claims[-compared:]) / median(beginning.claims)
        ground.say(f"horizon held, {subjects} subjects: a claim {ratio:.2f} times as long as at the beginning")
    events = min(len(it.claims) for it in grown) * _CHUNK
    what = f"{events:,} events with the horizon held, {subjects:,} subjects"
    rival = f"the first {compared * _CHUNK:,}"
    note = (
        f"runs: {len(grown)}; of each thousand events its median claim, the last {compared} of a run in turns with the "
        f"first {compared} of another"
    )

    def figure(of: str, milliseconds: Callable[[LongRun], list[float]], note: str = "", evidence: str = "") -> Figure:
        ends = [it for run in grown for it in milliseconds(run)[-compared:]]
        beginnings = [it for run in young for it in milliseconds(run)]
        return Figure(f"{of} at the end of {what}", rival, "ms", ends, beginnings, Demand(at_most=1.3), note, evidence)

    return [
        figure("a claim", lambda run: run.claims, note, last_claim),
        figure("enqueue and delivery of a thousand", lambda run: run.cycles),
    ]


@contextmanager
def _with_horizon_held(ground: Ground, subjects: int, batch_size: int) -> Iterator[LongRun]:
    """Enqueue and deliver while an old snapshot keeps every dead row and index entry in place."""
    with ground.database() as engine, watch(engine) as log, _running(engine, batch_size) as runner:
        # The tables of a running system have statistics, and its workers their plans.
        for _ in range(_WARM_UP_CHUNKS):
            runner.cycle(subjects)
        vacuum(engine)
        with _old_snapshot(engine):
            yield LongRun(runner, log, subjects)


def _grow(ground: Ground, run: LongRun, chunks: int) -> None:
    began_at = time.monotonic()
    for n in range(1, chunks + 1):
        run.cycle()
        if n % max(1, chunks // 10) == 0:
            ground.say(f"horizon held, {run.subjects} subjects, {n * _CHUNK:,} events: a claim {run.claims[-1]:.2f} ms")
        if time.monotonic() - began_at > _SECONDS_MAX:
            ground.say(f"horizon held, {run.subjects} subjects: given up after {n * _CHUNK:,} events")
            return


@contextmanager
def _old_snapshot(engine: Engine) -> Iterator[None]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT count(*) FROM orders"))
        yield


@contextmanager
def _running(engine: Engine, batch_size: int) -> Iterator[Runner]:
    runner = Runner(engine)
    worker = make_worker(engine, runner.deliver, batch_size=batch_size, concurrency=1)
    with in_thread(worker):
        yield runner
