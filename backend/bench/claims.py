"""How long a claim takes as tables grow, subjects stall and dead rows cannot be cleared.

Claims are timed one by one in a running worker that has one batch in hand at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Engine, text

from bench import long_run
from bench.figures import Demand, Figure, Rounds
from bench.ground import Ground
from bench.table import OUTBOX, load, vacuum
from bench.worker import deliver_at_once, in_thread, make_worker
from instruments.statements import Log, explain, watch
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.outcome import Outcome
from sqlalchemy_outbox.waking import wakeup

BATCH = 50
SUBJECTS = (100, 20_000)
_BATCHES_A_ROUND = 20
_EVENTS_A_ROUND = BATCH * _BATCHES_A_ROUND
_HOT = "hot"
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
        figures += long_run.measure(ground, subjects, BATCH)
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
    with watch(engine) as log, in_thread(make_worker(engine)):
        log.wait_until_quiet()
        deadline = time.monotonic() + _POLLS_SECONDS_MAX
        while len(polls) < _POLLS and time.monotonic() < deadline:
            log.statements.clear()
            wakeup.wake(engine, OUTBOX)
            log.wait_until_quiet()
            polls.append(sum(it.seconds for it in log.statements))
    return 1000 * median(polls)
