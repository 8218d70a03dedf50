"""What an event adds to the business transaction it belongs to."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

from sqlalchemy import Engine, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from bench.figures import Count, Demand, Figure, Rounds
from bench.ground import Ground
from bench.peers.client import Peer
from bench.table import EVENT_TYPE, ORDERS, OUTBOX, PAYLOAD, insert_event
from sqlalchemy_outbox.enqueueing import commits
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.payload import encode_payload
from sqlalchemy_outbox.waking import wakeup
from tests.protocol_trace import round_trips, traced

_THREADS = 8
_DRIVERS = ("asyncpg", "psycopg")

Enqueue = Callable[[Session], None]


def measure(ground: Ground) -> list[Figure | Count]:
    with ground.database() as engine:
        return [
            *_count_round_trips(ground, engine),
            *_measure_added_time(ground, engine),
            *_measure_threads(ground, engine),
            *_measure_async(ground, engine),
        ]


def _nothing(_session: Session) -> None:
    """The business transaction alone."""


def ours(events: int) -> Enqueue:
    def enqueue_events(session: Session) -> None:
        for n in range(events):
            enqueue(session, OUTBOX, EVENT_TYPE, f"driver-{n}", PAYLOAD)

    return enqueue_events


def _nested(events: int) -> Enqueue:
    """What one writes without an outbox library, and as safe: a savepoint and an INSERT for each event."""

    def insert_events(session: Session) -> None:
        for n in range(events):
            payload, _ = encode_payload(PAYLOAD)
            with session.begin_nested():
                session.execute(insert_event(f"driver-{n}", payload))

    return insert_events


def _transact(engine: Engine, enqueue_events: Enqueue) -> float:
    """One business transaction; the seconds that it took."""
    began_at = time.perf_counter()
    with Session(engine) as session:
        session.execute(insert(ORDERS).values(item="a coffee"))
        enqueue_events(session)
        session.commit()
    return time.perf_counter() - began_at


def _count_round_trips(ground: Ground, engine: Engine) -> list[Count]:
    events = (1, 5, 500)
    alone = _round_trips(engine, _nothing)
    added = [_round_trips(engine, ours(n)) - alone for n in events]
    ground.say(f"enqueue, round trips added by {events} events: {added}")
    return [
        Count(
            "round trips added to a transaction by 1, 5 and 500 events",
            max(added),
            Demand(at_most=1),
            f"{', '.join(map(str, added))}; counted in libpq's trace",
        )
    ]


def _round_trips(engine: Engine, enqueue_events: Enqueue) -> int:
    """How often the client waited from the first event to the end of the commit."""
    with tempfile.TemporaryDirectory() as folder, Session(engine) as session:
        session.execute(insert(ORDERS).values(item="a coffee"))
        with traced(session, Path(folder) / "trace") as trace:
            enqueue_events(session)
            session.commit()
        return round_trips(trace)


def _measure_added_time(ground: Ground, engine: Engine) -> list[Figure]:
    """The three transactions take turns, so that whatever slows the machine slows them alike."""
    figures: list[Figure] = []
    for events, demand in ((1, Demand(at_most=0.7)), (5, Demand(at_most=0.2))):
        contenders = {"alone": _nothing, "outbox": ours(events), "nested": _nested(events)}
        rounds = Rounds()
        for n in ground.rounds:
            seconds = _take_turns(engine, contenders, ground.size(300, 60))
            rounds.add("outbox", 1e6 * (seconds["outbox"] - seconds["alone"]))
            rounds.add("nested", 1e6 * (seconds["nested"] - seconds["alone"]))
            ground.say(
                f"enqueue {events}, round {n}: alone {1e6 * seconds['alone']:.0f} µs, "
                f"outbox +{rounds['outbox'][-1]:.0f} µs, nested +{rounds['nested'][-1]:.0f} µs"
            )
        figures.append(
            Figure(
                f"time added to a transaction by {events} event{'s' if events > 1 else ''}",
                "begin_nested() and an INSERT for each",
                "µs",
                rounds["outbox"],
                rounds["nested"],
                demand,
            )
        )
    return figures


def _take_turns(engine: Engine, contenders: dict[str, Enqueue], transactions: int) -> dict[str, float]:
    samples = {name: [0.0] * transactions for name in contenders}
    for n in range(transactions):
        for name, enqueue_events in contenders.items():
            samples[name][n] = _transact(engine, enqueue_events)
    return {name: median(seconds) for name, seconds in samples.items()}


def _measure_threads(ground: Ground, engine: Engine) -> list[Figure]:
    rounds = Rounds()
    transactions = ground.size(2_000, 400)
    for n in ground.rounds:
        rounds.add("alone", throughput(engine, _nothing, transactions))
        rounds.add("outbox", throughput(engine, ours(1), transactions))
        ground.say(f"8 threads, round {n}, tx/s: alone {rounds['alone'][-1]:.0f}, outbox {rounds['outbox'][-1]:.0f}")
    return [
        Figure(
            "8 threads, a transaction with one event",
            "the transaction alone",
            "tx/s",
            rounds["outbox"],
            rounds["alone"],
            Demand(at_least=0.55),
            evidence=_processor_times(ground, engine, transactions),
        )
    ]


def _processor_times(ground: Ground, engine: Engine, transactions: int) -> str:
    """What the client computes for one transaction, with one step of enqueue more each time."""
    unwoken = partial(patch.object, wakeup, "wake")
    unwritten = partial(patch.object, commits, "_write_rows", return_value=None)
    steps: dict[str, tuple[Enqueue, list[Callable[[], AbstractContextManager[object]]]]] = {
        "the transaction alone": (_nothing, []),
        "with an event that is encoded and buffered": (ours(1), [unwritten, unwoken]),
        "and written": (ours(1), [unwoken]),
        "and told of": (ours(1), []),
    }
    rounds = Rounds()
    for _ in ground.rounds:
        for name, (enqueue_events, patches) in steps.items():
            with ExitStack() as stack:
                for it in patches:
                    stack.enter_context(it())
                began_at = time.process_time()
                throughput(engine, enqueue_events, transactions)
                rounds.add(name, 1e6 * (time.process_time() - began_at) / transactions)
    return "the client's processor time for a transaction, of whose threads one computes at a time: " + ", ".join(
        f"{name} {median(rounds[name]):,.0f} µs" for name in steps
    )


def throughput(engine: Engine, enqueue_events: Enqueue, transactions: int) -> float:
    """Transactions a second, from eight threads."""

    def commit_many() -> None:
        for _ in range(transactions // _THREADS):
            _transact(engine, enqueue_events)

    threads = [threading.Thread(target=commit_many) for _ in range(_THREADS)]
    began_at = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return transactions / (time.perf_counter() - began_at)


@dataclass(frozen=True, slots=True)
class Publisher:
    """A peer that adds events to the caller's transaction, as it does so best."""

    peer: Peer
    rival: str
    settings: Mapping[str, object]
    note: str

    def added(self, transactions: int, events: int) -> float:
        """What so many events add to the business transaction alone, in µs, each on the peer's own driver."""
        seconds = self.peer.ask("publish", transactions=transactions, events=events, **self.settings)
        return 1e6 * float(seconds["published"] - seconds["alone"])


def _measure_async(ground: Ground, engine: Engine) -> list[Figure]:
    """Each beside the business transaction alone on its own driver, in turns."""
    transactions = ground.size(300, 60)
    figures: list[Figure] = []
    with ground.peer("with_faststream_outbox") as faststream, ground.peer("with_txoutbox") as txoutbox:
        within_session = [_faststream(faststream, transactions), _txoutbox(txoutbox, "AsyncSession")]
        publishers = [*within_session, _txoutbox(txoutbox, "asyncpg")]
        for events in (1, 5):
            rounds = Rounds()
            for n in ground.rounds:
                rounds.add("outbox", asyncio.run(_added_async(engine, transactions, events)))
                for publisher in publishers:
                    rounds.add(publisher.rival, publisher.added(transactions, events))
                added = ", ".join(f"{name} +{samples[-1]:.0f} µs" for name, samples in rounds.samples.items())
                ground.say(f"async enqueue {events}, round {n}: {added}")
            fastest = min(within_session, key=lambda publisher: median(rounds[publisher.rival]))
            figures += [
                Figure(
                    f"AsyncSession, time added by {events} event{'s' if events > 1 else ''}, against {publisher.rival}"
                    f"{', the fastest peer' if publisher is fastest else ''}",
                    publisher.rival,
                    "µs",
                    rounds["outbox"],
                    rounds[publisher.rival],
                    Demand(aim="aim ≤ 1") if publisher in within_session else Demand(),
                    publisher.note,
                )
                for publisher in publishers
            ]
    return figures


def _faststream(peer: Peer, transactions: int) -> Publisher:
    """With whichever driver suits it best."""
    publishers = [
        Publisher(
            peer,
            "faststream-outbox's publish",
            {"driver": driver},
            f"theirs on {driver}, without protection: a failed publish fails the transaction",
        )
        for driver in _DRIVERS
    ]
    return min(publishers, key=lambda publisher: publisher.added(transactions, 1))


def _txoutbox(peer: Peer, within: str) -> Publisher:
    is_like_ours = within == "AsyncSession"
    return Publisher(
        peer,
        "txoutbox's insert" if is_like_ours else "txoutbox's insert without SQLAlchemy",
        {"within": within},
        "theirs "
        + ("by the asyncpg connection beneath the session" if is_like_ours else "in a transaction of asyncpg's own")
        + ", without protection and waking nobody: a failed insert fails the transaction",
    )


async def _added_async(engine: Engine, transactions: int, events: int) -> float:
    async_engine = create_async_engine(engine.url)
    samples: dict[int, list[float]] = {0: [], events: []}
    for _ in range(transactions):
        for count, seconds in samples.items():
            began_at = time.perf_counter()
            async with AsyncSession(async_engine) as session:
                await session.execute(insert(ORDERS).values(item="a coffee"))
                for n in range(count):
                    enqueue(session, OUTBOX, EVENT_TYPE, f"driver-{n}", PAYLOAD)
                await session.commit()
            seconds.append(time.perf_counter() - began_at)
    await async_engine.dispose()
    return 1e6 * (median(samples[events]) - median(samples[0]))
