"""How long a claim takes as tables grow, subjects stall and dead rows cannot be cleared.

Claims are timed one by one in a running worker that has one batch in hand at a time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from bench.figures import Demand, Figure, Rounds
from bench.ground import Ground
from bench.statements import Log, explain, watch
from bench.table import EVENT_TYPE, OUTBOX, PAYLOAD, load, vacuum
from bench.worker import deliver_at_once, make_worker
from outbox import wakeup
from outbox.destination import Claim
from outbox.enqueue import enqueue
from outbox.gate import Gate
from outbox.outcome import Outcome
from outbox.worker import Worker

BATCH = 50
SUBJECTS = (100, 20_000)
_BATCHES_A_ROUND = 20
_EVENTS_A_ROUND = BATCH * _BATCHES_A_ROUND
_HOT = "hot"
# Chunks of the long run are enqueued whole and then delivered whole, so that every claim is a full batch.
_CHUNK = 1_000
_COMPARED_CHUNKS = 20
_LONG_RUNS = 3
_WARM_UP_CHUNKS = 5
# A claim that slows with every event would not come to an end.
_LONG_RUN_SECONDS_MAX = 150
_CLAIMS_SECONDS_MAX = 2
_POLLS_SECONDS_MAX = 2
_POLLS = 30

Prepare = Callable[[Engine, int], None]
"""Load a table for so many subjects, once."""


def measure(ground: Ground) -> list[Figure]:
    figures: list[Figure] = []
    for subjects in SUBJECTS:
        figures += [_compare(ground, it, subjects) for it in _comparisons(ground)]
    for subjects in SUBJECTS:
        figures += _measure_held_horizon(ground, subjects)
    return [*figures, *_measure_idle_poll(ground)]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same claims on two tables; one of them carries a burden."""

    what: str
    rival: str
    burdened: Prepare
    plain: Prepare
    demand: Demand


def _comparisons(ground: Ground) -> list[Comparison]:
    kept = ground.size(1_000_000, 100_000)
    backlog = ground.size(500_000, 50_000)
    behind = ground.size(100_000, 20_000)

    def nothing(_engine: Engine, _subjects: int) -> None:
        """The round's own events are all there is."""

    def keep(count: int) -> Prepare:
        return lambda engine, subjects: load(engine, count, subjects, are_delivered=True)

    return [
        Comparison(f"a claim with {kept:,} kept events", "10,000 kept", keep(kept), keep(10_000), Demand(at_most=1.2)),
        Comparison(
            f"a claim from a backlog of {backlog:,}",
            "a backlog of 1,000",
            lambda engine, subjects: load(engine, backlog, subjects),
            nothing,
            Demand(at_most=1.2),
        ),
        Comparison(
            f"a claim of others, {behind:,} events behind a head that backs off",
            "no such subject",
            lambda engine, _: _stall_a_subject(engine, behind),
            nothing,
            Demand(at_most=2),
        ),
    ]


def _stall_a_subject(engine: Engine, events: int) -> None:
    load(engine, events, 1, prefix=_HOT)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE outbox_events SET attempt_count = 1, last_error = 'it went wrong', "
                "available_at = now() + interval '1 day' "
                "WHERE id = (SELECT min(id) FROM outbox_events WHERE subject = :subject)"
            ),
            {"subject": f"{_HOT}-0"},
        )


def _compare(ground: Ground, comparison: Comparison, subjects: int) -> Figure:
    rounds = Rounds()
    with ExitStack() as stack:
        engines = {name: stack.enter_context(ground.database()) for name in ("burdened", "plain")}
        comparison.burdened(engines["burdened"], subjects)
        comparison.plain(engines["plain"], subjects)
        for n in ground.rounds:
            for name, engine in engines.items():
                load(engine, _EVENTS_A_ROUND, subjects)
                vacuum(engine)
                rounds.add(name, 1000 * median(_claims(engine, _BATCHES_A_ROUND).claim_seconds()))
            ground.say(
                f"{comparison.what}, {subjects} subjects, round {n}: {rounds['burdened'][-1]:.2f} ms; "
                f"{comparison.rival}: {rounds['plain'][-1]:.2f} ms"
            )
        load(engines["burdened"], _EVENTS_A_ROUND, subjects)
        evidence = _explain_a_claim(engines["burdened"])
    return Figure(
        f"{comparison.what}, {subjects:,} subjects",
        comparison.rival,
        "ms",
        rounds["burdened"],
        rounds["plain"],
        comparison.demand,
        evidence=evidence,
    )


def _claims(engine: Engine, batches: int) -> Log:
    """Deliver so many batches, or as many as there is time for, and return what was sent meanwhile."""
    done = 0
    deadline = time.monotonic() + _CLAIMS_SECONDS_MAX

    async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        nonlocal done
        done += 1
        if done == batches or time.monotonic() > deadline:
            worker.stop()
        return await deliver_at_once(claim, gate)

    worker = make_worker(engine, deliver, batch_size=BATCH, concurrency=1)
    with watch(engine) as log:
        asyncio.run(worker.drain())
    return log


def _explain_a_claim(engine: Engine) -> str:
    """The plan of the last of a few claims, as the worker left the table."""
    return explain(engine, _claims(engine, 3).claims()[-1])


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


def _measure_held_horizon(ground: Ground, subjects: int) -> list[Figure]:
    """The end of a long run beside the beginning of another: the machine's moods change within one."""
    grown: list[LongRun] = []
    young: list[LongRun] = []
    last_claim = ""
    compared = ground.size(_COMPARED_CHUNKS, 4)
    for _ in range(ground.size(_LONG_RUNS, 1)):
        with _horizon_held(ground, subjects) as run:
            _grow(ground, run, ground.size(200_000, 20_000) // _CHUNK - compared)
            with _horizon_held(ground, subjects) as beginning:
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
    return [
        Figure(
            f"a claim at the end of {what}",
            rival,
            "ms",
            [it for run in grown for it in run.claims[-compared:]],
            [it for run in young for it in run.claims],
            Demand(at_most=1.3),
            note,
            last_claim,
        ),
        Figure(
            f"enqueue and delivery of a thousand at the end of {what}",
            rival,
            "ms",
            [it for run in grown for it in run.cycles[-compared:]],
            [it for run in young for it in run.cycles],
            Demand(at_most=1.3),
        ),
    ]


@contextmanager
def _horizon_held(ground: Ground, subjects: int) -> Iterator[LongRun]:
    """Enqueue and deliver while an old snapshot keeps every dead row and index entry in place."""
    with ground.database() as engine, watch(engine) as log, _running(engine) as runner:
        # The tables of a running system have statistics, and its workers their plans.
        for _ in range(_WARM_UP_CHUNKS):
            runner.cycle(subjects)
        vacuum(engine)
        with _held_horizon(engine):
            yield LongRun(runner, log, subjects)


def _grow(ground: Ground, run: LongRun, chunks: int) -> None:
    began_at = time.monotonic()
    for n in range(1, chunks + 1):
        run.cycle()
        if n % max(1, chunks // 10) == 0:
            ground.say(f"horizon held, {run.subjects} subjects, {n * _CHUNK:,} events: a claim {run.claims[-1]:.2f} ms")
        if time.monotonic() - began_at > _LONG_RUN_SECONDS_MAX:
            ground.say(f"horizon held, {run.subjects} subjects: given up after {n * _CHUNK:,} events")
            return


@contextmanager
def _held_horizon(engine: Engine) -> Iterator[None]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT count(*) FROM orders"))
        yield


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


@contextmanager
def _running(engine: Engine) -> Iterator[Runner]:
    runner = Runner(engine)
    worker = make_worker(engine, runner.deliver, batch_size=BATCH, concurrency=1)
    with _in_thread(worker):
        yield runner


@contextmanager
def _in_thread(worker: Worker) -> Iterator[None]:
    thread = threading.Thread(target=lambda: asyncio.run(worker.run()))
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


def _measure_idle_poll(ground: Ground) -> list[Figure]:
    """What a worker asks when it is woken and nothing is due."""
    kept = ground.size(1_000_000, 100_000)
    behind = ground.size(100_000, 20_000)
    burdens: Mapping[str, Callable[[Engine], None]] = {
        f"{kept:,} kept events": lambda engine: load(engine, kept, SUBJECTS[-1], are_delivered=True),
        f"{behind:,} events behind a head that backs off": lambda engine: _stall_a_subject(engine, behind),
    }
    figures = []
    for name, burden in burdens.items():
        rounds = Rounds()
        with ground.database() as burdened, ground.database() as empty:
            burden(burdened)
            vacuum(burdened)
            for n in ground.rounds:
                rounds.add("burdened", _poll_ms(burdened))
                rounds.add("empty", _poll_ms(empty))
                ground.say(
                    f"idle poll, {name}, round {n}: {rounds['burdened'][-1]:.2f} ms; "
                    f"empty table: {rounds['empty'][-1]:.2f} ms"
                )
        figures.append(
            Figure(
                f"an idle poll, {name}",
                "an empty table",
                "ms",
                rounds["burdened"],
                rounds["empty"],
                Demand(at_most=2),
                "all statements between being woken and sleeping again",
            )
        )
    return figures


def _poll_ms(engine: Engine) -> float:
    """Median milliseconds of the database in one poll."""
    polls: list[float] = []
    with watch(engine) as log, _in_thread(make_worker(engine)):
        log.wait_until_quiet()
        deadline = time.monotonic() + _POLLS_SECONDS_MAX
        while len(polls) < _POLLS and time.monotonic() < deadline:
            log.statements.clear()
            wakeup.wake(engine, OUTBOX)
            log.wait_until_quiet()
            polls.append(sum(it.seconds for it in log.statements))
    return 1000 * median(polls)
