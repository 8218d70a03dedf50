"""How soon a worker in another process has what was just committed, and what waking it costs those who commit."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from unittest.mock import patch

import psycopg
from sqlalchemy import Engine, func, insert, select
from sqlalchemy.orm import Session

from bench.claimant import CHANNEL, IN_HAND, Claimant
from bench.enqueue import ours, throughput
from bench.figures import Count, Demand, Figure, Rounds, percentile
from bench.ground import Ground
from bench.table import EVENT_TYPE, ORDERS, OUTBOX, insert_event, load
from instruments.urls import plain_url
from sqlalchemy_outbox.delivering.worker import POLL_INTERVAL
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.payload import encode_payload
from sqlalchemy_outbox.waking import wakeup

_PAUSE_MIN_SECONDS = 0.05
_PAUSE_MAX_SECONDS = 0.07

Commit = Callable[[Engine, int], None]
"""Commit one event that carries this number."""
Latency = Mapping[str, float]
"""Milliseconds from the return of a commit to each step of its claim."""


def measure(ground: Ground) -> list[Figure | Count]:
    return [*_measure_latency(ground), _measure_cost(ground), _measure_lost_notification(ground)]


def _commit_ours(engine: Engine, number: int) -> None:
    with Session(engine) as session:
        session.execute(insert(ORDERS).values(item="a coffee"))
        enqueue(session, OUTBOX, EVENT_TYPE, f"driver-{number}", {"n": number})
        session.commit()


def _commit_bare(engine: Engine, number: int) -> None:
    """The shortest way to a listener: NOTIFY travels with the commit, though commits then wait for each other."""
    payload, _ = encode_payload({"n": number})
    with Session(engine) as session:
        session.execute(insert(ORDERS).values(item="a coffee"))
        session.execute(insert_event(f"driver-{number}", payload))
        session.execute(select(func.pg_notify(CHANNEL, "")))
        session.commit()


def _measure_latency(ground: Ground) -> list[Figure]:
    commits = ground.size(60, 20)
    ways: Mapping[str, Commit] = {"worker": _commit_ours, "bare": _commit_bare, "noted": _commit_ours}
    rounds = Rounds()
    judged = ("worker", "bare")
    everything: dict[str, list[Latency]] = {kind: [] for kind in judged}
    with ExitStack() as stack:
        engines = {kind: stack.enter_context(ground.database()) for kind in ways}
        claimants = {
            kind: stack.enter_context(Claimant.start(kind, engine.url.render_as_string(hide_password=False)))
            for kind, engine in engines.items()
        }
        for kind, commit in ways.items():
            _latencies(engines[kind], commit, claimants[kind], 10)  # Connections, caches, imports.
        for n in ground.rounds:
            for kind in judged:
                latencies = _latencies(engines[kind], ways[kind], claimants[kind], commits)
                everything[kind] += latencies
                rounds.add(kind, percentile([it[IN_HAND] for it in latencies], 0.5))
            ground.say(
                f"wake-up, round {n}, p50: outbox {rounds['worker'][-1]:.2f} ms, bare {rounds['bare'][-1]:.2f} ms"
            )
        steps = _steps(_latencies(engines["noted"], ways["noted"], claimants["noted"], commits))
    ground.say(f"wake-up, medians of a worker that notes its steps: {steps}")
    p99 = {name: [percentile([it[IN_HAND] for it in everything[name]], 0.99)] for name in judged}
    rival = "a bare LISTEN loop that claims"
    return [
        Figure(
            "commit → claim in another process, p50",
            rival,
            "ms",
            rounds["worker"],
            rounds["bare"],
            Demand(at_most=2),
            "from the return of the commit to the event in hand; the bare loop is notified by the commit itself",
            evidence=f"medians of a worker that notes its steps, from the return of the commit: {steps}",
        ),
        Figure(
            "commit → claim in another process, p99",
            rival,
            "ms",
            p99["worker"],
            p99["bare"],
            Demand(at_most=3),
            f"over the {len(everything['worker'])} commits of all rounds, 50 to 70 ms apart",
        ),
    ]


def _steps(latencies: Sequence[Latency]) -> str:
    return ", ".join(f"{step} {median(it[step] for it in latencies):.2f} ms" for step in latencies[-1])


def _latencies(engine: Engine, commit: Commit, claimant: Claimant, commits: int) -> list[Latency]:
    """Of each commit."""
    latencies: list[Latency] = []
    for number in range(commits):
        time.sleep(random.uniform(_PAUSE_MIN_SECONDS, _PAUSE_MAX_SECONDS))
        commit(engine, number)
        committed_at = time.monotonic()
        claimed, moments = claimant.next_claim()
        assert claimed == number
        latencies.append({step: 1000 * (moment - committed_at) for step, moment in moments.items()})
    return latencies


def _measure_cost(ground: Ground) -> Figure:
    transactions = ground.size(2_000, 400)
    rounds = Rounds()
    with ground.database() as engine, psycopg.connect(plain_url(engine.url), autocommit=True) as listener:
        listener.execute(f"LISTEN {OUTBOX.name}")
        for n in ground.rounds:
            rounds.add("on", throughput(engine, ours(1), transactions))
            with patch.object(wakeup, "wake"):
                rounds.add("off", throughput(engine, ours(1), transactions))
            ground.say(f"8 committers, round {n}, tx/s: wake-up on {rounds['on'][-1]:.0f}, off {rounds['off'][-1]:.0f}")
    return Figure(
        "8 busy committers with wake-up on",
        "wake-up off",
        "tx/s",
        rounds["on"],
        rounds["off"],
        Demand(at_least=0.9),
    )


def _measure_lost_notification(ground: Ground) -> Count:
    """Events that nobody was notified of."""
    with (
        ground.database() as engine,
        Claimant.start("worker", engine.url.render_as_string(hide_password=False)) as claimant,
    ):
        _commit_ours(engine, 0)
        claimant.next_claim()
        # Until the worker sleeps again: what is told by the end of a delivery, or late, is no poll.
        time.sleep(1)
        load(engine, 1, 1, payload='{"n": 1}')
        committed_at = time.monotonic()
        _, moments = claimant.next_claim()
    seconds = moments[IN_HAND] - committed_at
    ground.say(f"a lost notification was healed after {seconds:.1f} s")
    return Count(
        "seconds until the poll finds what no notification told of",
        seconds,
        Demand(at_most=POLL_INTERVAL.total_seconds() + 0.5),
        f"the worker polls every {POLL_INTERVAL.total_seconds():.0f} s",
    )
