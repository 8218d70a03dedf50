"""How fast a backlog is delivered when the destination costs nothing, beside the peers and beside bare SQL."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

from sqlalchemy import Engine

from bench import raw, worker
from bench.figures import Count, Demand, Figure, Rounds
from bench.ground import Ground, sqlite_engine
from bench.peers.client import Peer
from bench.sampler import sample
from bench.table import count_open, reload
from bench.worker import deliver_through_gate, make_worker
from instruments.statements import Kind, watch
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.outcome import Outcome

SUBJECTS = 2_000
_BATCH_SIZES = (50, 500)
_RAW_WORKERS = (1, 2, 4)
_TRIES = 2


@dataclass(frozen=True, slots=True)
class Contestant:
    """A peer, how many events it is given a round, and the settings it may choose from."""

    name: str
    module: str
    events: int
    settings: Sequence[Mapping[str, object]]


_PGQUEUER = Contestant(
    "pgqueuer",
    "with_pgqueuer",
    20_000,
    [{"batch_size": size, "is_pooled": pool} for size in (50, 200, 1000) for pool in (False, True)],
)
_PROCRASTINATE = Contestant(
    "procrastinate",
    "with_procrastinate",
    2_000,
    [{"concurrency": n, "delete_jobs": delete} for n in (5, 10, 30) for delete in ("never", "always")],
)
_FASTSTREAM = Contestant(
    "faststream-outbox",
    "with_faststream_outbox",
    10_000,
    [
        {"fetch_batch_size": 500, "max_workers": n, "flush_batch_size": 100, "driver": driver}
        for n in (1, 4, 10)
        for driver in ("asyncpg", "psycopg")
    ],
)
_TXOUTBOX = {
    size: Contestant(
        f"txoutbox at {size}",
        "with_txoutbox",
        20_000,
        [{"batch_size": size, "relays": n, "delete_on_ack": delete} for n in (1, 2, 4) for delete in (False, True)],
    )
    for size in _BATCH_SIZES
}
_CONTESTANTS = (_PGQUEUER, _PROCRASTINATE, _FASTSTREAM, *_TXOUTBOX.values())

Drain = Callable[[], float]
"""Drain a fresh backlog; events a second."""


def measure(ground: Ground) -> list[Figure | Count]:
    return [*_measure_postgresql(ground), *_count_statements(ground), *_measure_sqlite(ground)]


def _measure_postgresql(ground: Ground) -> list[Figure]:
    events = ground.size(20_000, 4_000)
    rounds = Rounds()
    notes: dict[str, str] = {}
    with ground.database() as engine, ExitStack() as stack:
        drains: dict[str, Drain] = {
            f"outbox {size}": partial(_drain_ours, engine, events, size) for size in _BATCH_SIZES
        }
        for size in _BATCH_SIZES:
            drains[f"raw {size}"], notes[f"raw {size}"] = _best_raw(ground, engine, events, size)
        for it in _CONTESTANTS:
            drains[it.name], notes[it.name] = _best_peer(ground, stack.enter_context(ground.peer(it.module)), it)
        for n in ground.rounds:
            for name, drain in drains.items():
                rounds.add(name, drain())
            ground.say(f"drain, round {n}, events/s: " + ", ".join(f"{it} {rounds[it][-1]:,.0f}" for it in drains))
        best = rounds.best([it.name for it in _CONTESTANTS])
        peers = ", ".join(f"{it.name} {median(rounds[it.name]):,.0f} ({notes[it.name]})" for it in _CONTESTANTS)
        profiles = {size: _profile(engine, events, size) for size in _BATCH_SIZES}
    of_peers = (
        f"peers' medians, to the last handler's call: {peers}; as run here, only txoutbox keeps the order of a key"
    )
    return (
        [
            Figure(
                f"drain, batches of {size}, against {best}, the fastest peer",
                best,
                "events/s",
                rounds[f"outbox {size}"],
                rounds[best],
                Demand(at_least=2, aim="aim 3") if size == max(_BATCH_SIZES) else Demand(),
                note=of_peers if size == max(_BATCH_SIZES) else "",
                evidence=profiles[size],
            )
            for size in _BATCH_SIZES
        ]
        + [
            Figure(
                f"drain, batches of {size}, against {contestant.name}, which keeps the order of a key",
                contestant.name,
                "events/s",
                rounds[f"outbox {size}"],
                rounds[contestant.name],
                Demand(),
                note=f"to the last handler's call; {notes[contestant.name]}",
            )
            for size, contestant in _TXOUTBOX.items()
        ]
        + [
            Figure(
                f"drain, batches of {size}, against raw",
                "raw",
                "events/s",
                rounds[f"outbox {size}"],
                rounds[f"raw {size}"],
                Demand(at_least=0.6),
                note=f"raw with {notes[f'raw {size}']}",
                evidence=profiles[size],
            )
            for size in _BATCH_SIZES
        ]
    )


def _drain_ours(engine: Engine, events: int, batch_size: int) -> float:
    reload(engine, events, SUBJECTS)
    seconds = worker.drain(engine, batch_size=batch_size)
    assert count_open(engine) == 0
    return events / seconds


def _drain_raw(engine: Engine, events: int, batch_size: int, workers: int) -> float:
    reload(engine, events, SUBJECTS)
    began_at = time.perf_counter()
    count = raw.drain(engine.url.render_as_string(hide_password=False), batch_size, workers)
    seconds = time.perf_counter() - began_at
    assert count == events
    return events / seconds


def _best_raw(ground: Ground, engine: Engine, events: int, batch_size: int) -> tuple[Drain, str]:
    drains = {workers: partial(_drain_raw, engine, events, batch_size, workers) for workers in _RAW_WORKERS}
    rates = {workers: max(drain() for _ in range(_TRIES)) for workers, drain in drains.items()}
    best = max(rates, key=lambda workers: rates[workers])
    ground.say(f"raw {batch_size}, events/s by workers: " + ", ".join(f"{n}: {rate:,.0f}" for n, rate in rates.items()))
    return drains[best], f"{best} connection{'s' if best > 1 else ''}"


def _best_peer(ground: Ground, peer: Peer, contestant: Contestant) -> tuple[Drain, str]:
    """The peer with the fastest of its settings."""
    events = ground.size(contestant.events, contestant.events // 4)

    def drain(settings: Mapping[str, object]) -> float:
        return events / float(peer.ask("drain", events=events, **settings)["seconds"])

    rates = [(max(drain(it) for _ in range(_TRIES)), it) for it in contestant.settings]
    for rate, settings in rates:
        ground.say(f"{contestant.name}, {_words(settings)}: {rate:,.0f} events/s")
    _, best = max(rates, key=lambda rated: rated[0])
    return partial(drain, best), _words(best)


def _words(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _profile(engine: Engine, events: int, batch_size: int) -> str:
    reload(engine, events, SUBJECTS)
    with watch(engine) as log:
        seconds = worker.drain(engine, batch_size=batch_size, concurrency=1)
    reload(engine, events, SUBJECTS)
    with sample() as profile:
        worker.drain(engine, batch_size=batch_size)
    return f"One batch at a time, {log.shares(seconds)}. Busy Python frames: {profile.top()}."


def _count_statements(ground: Ground) -> list[Count]:
    """Statements and commits between one delivery and the next, in a worker that has one batch in hand at a time."""
    statements: list[int] = []
    gates: list[int] = []
    commits: list[int] = []
    events = ground.size(10_000, 2_500)
    with ground.database() as engine, watch(engine) as log:

        async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
            outcomes = await deliver_through_gate(claim, gate)
            gate_count = len(log.of(Kind.GATE))
            statements.append(len(log.statements) - gate_count)
            gates.append(gate_count)
            commits.append(log.commits)
            return outcomes

        reload(engine, events, SUBJECTS)
        log.statements.clear()
        log.commits = 0
        asyncio.run(make_worker(engine, deliver, concurrency=1).drain())
    per_batch = {
        "statements": _typical_step(statements),
        "gate statements": _typical_step(gates),
        "commits": _typical_step(commits) - _typical_step(gates),
    }
    ground.say("drain, per batch: " + ", ".join(f"{count:g} {what}" for what, count in per_batch.items()))
    batches = len(statements)
    note = f"median over {batches} batches; {statements[-1] / batches:.2f} on average with what is done once a second"
    return [
        Count("statements a batch, PostgreSQL", per_batch["statements"], Demand(at_most=2), note),
        Count("commits a batch, PostgreSQL", per_batch["commits"], Demand(at_most=2)),
        Count("gate statements a request", per_batch["gate statements"], Demand(at_most=1), "a commit of its own each"),
    ]


def _typical_step(values: Sequence[int]) -> float:
    return median(after - before for before, after in pairwise(values))


def _measure_sqlite(ground: Ground) -> list[Figure]:
    events = ground.size(5_000, 1_500)
    rounds = Rounds()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.db"
        engine = sqlite_engine(file)
        for n in ground.rounds:
            reload(engine, events, SUBJECTS)
            rounds.add("outbox", events / worker.drain(engine, batch_size=50))
            assert count_open(engine) == 0
            reload(engine, events, SUBJECTS)
            began_at = time.perf_counter()
            assert raw.drain_sqlite(file, 50) == events
            rounds.add("raw", events / (time.perf_counter() - began_at))
            ground.say(f"SQLite, round {n}, events/s: outbox {rounds['outbox'][-1]:,.0f}, raw {rounds['raw'][-1]:,.0f}")
        profile = _profile(engine, events, 50)
        engine.dispose()
    return [
        Figure(
            "drain, batches of 50, SQLite, against raw",
            "raw",
            "events/s",
            rounds["outbox"],
            rounds["raw"],
            Demand(at_least=0.3),
            evidence=profile,
        )
    ]
