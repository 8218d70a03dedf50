"""What delivering live costs: the real worker over HTTP, beside the least that sends the same to the same stub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from sqlalchemy import Engine

from bench.figures import Count, Demand, Figure, Rounds
from bench.ground import Ground
from bench.live import start
from bench.live.crowded_sandbox import CONTACTS, RATE_MAX, WINDOW_SECONDS
from bench.live.drivers import Load
from bench.live.processes import Contender, Spent
from bench.process import Process

_BARE = "a bare httpx2 client"
# HubSpot's limit, in batches as large as it takes.
_CONTACTS_PER_SECOND = RATE_MAX / WINDOW_SECONDS * 100
_COST = Demand(at_most=5, aim="aim 3")
_RATE = Demand(at_least=0.16, aim="aim 0.3")
_HOLD = Demand(at_most=15, aim="aim 8")
_LARGEST = Load(events=500, padding=64 * 1024 - 1024)


@dataclass(frozen=True, slots=True)
class Case:
    """A way to deliver; only what the worker is made for is judged."""

    name: str
    load: Load
    batch_size: int
    is_judged: bool = False


def measure(ground: Ground) -> list[Figure | Count]:
    return [
        *_measure_against_bare(ground),
        *_measure_at_the_limit(ground),
        *_measure_peak(ground),
        *start.measure(ground),
    ]


def _cases(ground: Ground) -> list[Case]:
    many, some = ground.size(20_000, 5_000), ground.size(10_000, 2_000)
    return [
        Case(f"batches of 100, {many:,} drivers", Load(many), 100, is_judged=True),
        Case("batches of 50", Load(some), 50),
        Case("batches of 100, 5 events a driver", Load(some, of_a_driver=5), 100),
        Case("batches of 50, 5 events a driver", Load(some, of_a_driver=5), 50),
        Case("batches of 100, every tenth contact found by its address", Load(some, is_mixed=True), 100),
    ]


@dataclass(frozen=True, slots=True)
class Samples:
    """By the case: milliseconds of the processor for 1,000 contacts, contacts a second, and requests an event."""

    costs: Rounds = field(default_factory=Rounds)
    rates: Rounds = field(default_factory=Rounds)
    requests: Rounds = field(default_factory=Rounds)

    def add(self, case: Case, spent: Spent) -> None:
        self.costs.add(case.name, 1e6 * spent.processor / case.load.contacts)
        self.rates.add(case.name, case.load.contacts / spent.seconds)
        self.requests.add(case.name, spent.requests / case.load.events)


def _measure_against_bare(ground: Ground) -> list[Figure | Count]:
    cases, ours, bare, holds = _cases(ground), Samples(), Samples(), []
    with (
        Process.start("live.stub") as stub,
        ground.database() as engine,
        _worker_and_bare(engine, stub.next_line()) as (worker, client),
    ):
        for n in ground.rounds:
            for case in cases:
                case.load.store(engine)
                ours.add(case, worker.deliver(case.batch_size))
                bare.add(case, client.send(case.load, case.batch_size))
                costs = f"{ours.costs[case.name][-1]:.0f} ms of the processor, bare {bare.costs[case.name][-1]:.0f} ms"
                ground.say(f"live, round {n}, 1,000 contacts, {case.name}: {costs}")
            cases[0].load.store(engine)
            holds.append(worker.longest_hold_ms(cases[0].batch_size))
    note = f"in a process that has delivered before; the longest of all rounds: {max(holds):.1f} ms"
    hold = Count("longest hold of the event loop, ms of its processor time", median(holds), _HOLD, note)
    return [*(figure for case in cases for figure in _figures(case, ours, bare)), hold]


def _figures(case: Case, ours: Samples, bare: Samples) -> list[Figure]:
    name = case.name
    cost, rate = (_COST, _RATE) if case.is_judged else (Demand(), Demand())
    note = f"{median(ours.requests[name]):.3f} requests an event"
    return [
        Figure(f"processor time, 1,000 contacts, {name}", _BARE, "ms", ours.costs[name], bare.costs[name], cost, note),
        Figure(f"contacts delivered, {name}", _BARE, "contacts/s", ours.rates[name], bare.rates[name], rate),
    ]


@contextmanager
def _worker_and_bare(engine: Engine, hubspot: str) -> Iterator[tuple[Contender, Contender]]:
    """The two in processes of their own; the worker has its connections, imports and caches, as after days."""
    with Contender.start(engine, hubspot) as worker, Contender.start(engine, hubspot) as client:
        Load(1_000).store(engine)
        worker.deliver(100)
        yield worker, client


def _measure_at_the_limit(ground: Ground) -> list[Count]:
    seconds = ground.size(20, 10)
    load = Load(int(_CONTACTS_PER_SECOND * seconds))
    with (
        Process.start("live.crowded_sandbox") as sandbox,
        ground.database() as engine,
        Contender.start(engine, sandbox.next_line()) as contender,
    ):
        contender.provision()
        load.store(engine)
        spent = contender.deliver(100, rate=RATE_MAX / WINDOW_SECONDS, concurrency=8)
        seen = json.loads(sandbox.ask())
    share = spent.processor / load.contacts * _CONTACTS_PER_SECOND
    used = (seen["count"] - 1) / (seen["seconds"] * RATE_MAX / WINDOW_SECONDS)
    beside = f"beside {CONTACTS:,} contacts in the sandbox, over {seen['seconds']:.0f} s; statuses {seen['statuses']}"
    ground.say(f"live, at the limit: {share:.0%} of a core, {used:.1%} of the limit used, {beside}")
    return [
        Count("share of a core at 1,900 contacts/s", share, Demand(at_most=0.35, aim="aim 0.2"), beside),
        Count("share of 190 requests in 10 s that is used", used, Demand(at_least=0.98, aim="aim 0.99"), beside),
    ]


def _measure_peak(ground: Ground) -> list[Count]:
    with Process.start("live.stub") as stub, ground.database() as engine:
        _LARGEST.store(engine)
        with Contender.start(engine, stub.next_line()) as contender:
            contender.deliver(50, concurrency=32)
            peak = contender.peak_mib()
    ground.say(f"live, peak memory: {peak:.0f} MiB")
    note = f"{_LARGEST.events} payloads of 64 KiB, batches of 50, concurrency 32"
    return [Count("a worker's peak memory, MiB", peak, Demand(at_most=110), note)]
