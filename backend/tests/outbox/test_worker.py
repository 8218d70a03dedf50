"""The worker on a real database: it drains, sleeps, wakes, stops, and survives its destination and its database."""

from __future__ import annotations

import asyncio
import errno
import selectors
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError

from instruments.statements import Run, intercept, watch
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim, Deliver
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import ATTEMPTS_MAX, Outbox
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed, Rejected, Retry
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.queue import TYPES, Queue

LONG = timedelta(minutes=10)


@pytest.fixture
def queue(engine: Engine, outbox: Outbox) -> Queue:
    return Queue(engine, outbox)


@pytest.fixture
def postgres_queue(outbox_postgres_url: str, outbox: Outbox) -> Iterator[Queue]:
    engine = create_engine(outbox_postgres_url)
    yield Queue(engine, outbox)
    engine.dispose()


def worker_of(queue: Queue, deliver: Deliver, *, batch_size: int = 50, concurrency: int = 4) -> Worker:
    gate = Gate(queue.outbox, queue.engine, requests_per_second=1000)
    return Worker(
        queue.outbox,
        queue.engine,
        deliver,
        gate,
        types=TYPES,
        batch_size=batch_size,
        concurrency=concurrency,
        random=queue.random,
    )


async def eventually(condition: object, seconds: float = 10) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  # A database sets no asyncio.Event.
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task


async def test_drain_delivers_all_that_is_due(queue: Queue) -> None:
    ids = queue.put(*(f"driver-{n % 20}" for n in range(200)))
    recorder = RecordingDestination()
    await worker_of(queue, recorder).drain()
    assert sorted([it.id for it in recorder.events]) == ids
    assert max(len(batch) for batch in recorder.batches) <= 50


async def test_worker_drains_again(queue: Queue) -> None:
    recorder = RecordingDestination()
    worker = worker_of(queue, recorder)
    for _ in range(2):
        ids = queue.put("a", "b")
        await worker.drain()
        assert [it.id for it in recorder.events][-2:] == ids


async def test_drain_delivers_what_waited_behind_a_lease_that_ran_out_for_the_last_time(queue: Queue) -> None:
    killer, follower = queue.put("a", "a")
    for _ in range(ATTEMPTS_MAX):
        queue.claim(limit=1)
        queue.pass_time(LONG)
        if queue.row(killer).attempt_count < ATTEMPTS_MAX - 1:
            queue.charge_lost_leases()
            queue.pass_time(LONG)
    await worker_of(queue, RecordingDestination()).drain()
    assert queue.row(killer).failed_at is not None
    assert queue.row(follower).processed_at is not None


async def test_drain_delivers_what_is_claimed_under_a_lease_that_is_gone(queue: Queue) -> None:
    (id_,) = queue.put("a")
    queue.claim()
    with queue.engine.begin() as connection:
        connection.execute(queue.outbox.leases.delete())
    await worker_of(queue, RecordingDestination()).drain()
    assert queue.row(id_).processed_at is not None


async def test_worker_goes_on_while_all_threads_of_the_loop_are_taken(queue: Queue) -> None:
    (id_,) = queue.put("a")
    is_over = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocked = loop.run_in_executor(None, is_over.wait)
    drain = asyncio.create_task(worker_of(queue, RecordingDestination()).drain())
    in_time, _ = await asyncio.wait({drain}, timeout=10)
    is_over.set()
    await asyncio.gather(blocked, drain)
    assert in_time
    assert queue.row(id_).processed_at is not None


async def test_events_of_a_subject_arrive_in_order_whatever_happens_to_them(queue: Queue) -> None:
    ids = queue.put(*["a"] * 12)
    answers = iter([Delivered(), Retry("no"), Postponed(), Retry("no")])
    recorder = RecordingDestination(lambda event: next(answers, Delivered()))
    worker = worker_of(queue, recorder, batch_size=3)
    for _ in range(4):
        await worker.drain()
        queue.pass_time(LONG)
        worker = worker_of(queue, recorder, batch_size=3)
    firsts = list(dict.fromkeys([it.id for it in recorder.events]))
    assert firsts == ids
    assert all(queue.row(id_).processed_at for id_ in ids)


async def test_bug_in_the_destination_costs_an_attempt_and_not_the_event(queue: Queue) -> None:
    (id_,) = queue.put("a")

    async def buggy(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        raise ZeroDivisionError("a bug")

    await worker_of(queue, buggy).drain()
    row = queue.row(id_)
    assert (row.attempt_count, row.last_error) == (1, "ZeroDivisionError: a bug")


async def test_event_without_an_outcome_is_charged(queue: Queue) -> None:
    ids = queue.put("a", "b")

    async def forgetful(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        return {claim.events[0].id: Delivered()}

    await worker_of(queue, forgetful).drain()
    assert queue.row(ids[0]).processed_at is not None
    assert queue.row(ids[1]).attempt_count == 1


async def test_one_bad_event_hurts_only_itself(queue: Queue) -> None:
    ids = queue.put("a", "bad", "b", "a")
    recorder = RecordingDestination(lambda event: Rejected("bad") if event.subject == "bad" else Delivered())
    await worker_of(queue, recorder).drain()
    assert [queue.row(id_).processed_at is not None for id_ in ids] == [True, False, True, True]
    assert queue.row(ids[1]).last_error == "bad"


async def test_no_more_deliveries_are_in_flight_than_allowed(queue: Queue) -> None:
    queue.put(*(f"driver-{n}" for n in range(20)))
    in_flight = most = 0
    are_two = asyncio.Event()

    async def count(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if in_flight == 2:
            are_two.set()
        await asyncio.wait_for(are_two.wait(), 5)
        # Long enough for a third claim.
        await asyncio.to_thread(queue.row, claim.events[0].id)
        in_flight -= 1
        return {event.id: Delivered() for event in claim.events}

    await worker_of(queue, count, batch_size=2, concurrency=2).drain()
    assert most == 2


async def test_next_claim_is_made_while_the_delivery_of_a_full_batch_begins(queue: Queue) -> None:
    ids = queue.put("a", "b", "c", "d")
    claims = 0
    is_claimed_again = threading.Event()

    def count_claims(sql: str, _parameters: object, run: Run) -> None:
        nonlocal claims
        run()
        claims += sql.startswith("WITH runs")
        if claims == 2:
            is_claimed_again.set()

    async def busy(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        # Keeps the worker's loop, as the work for a batch of hundreds does.
        assert is_claimed_again.wait(5)
        return {event.id: Delivered() for event in claim.events}

    with intercept(queue.engine, count_claims):
        await worker_of(queue, busy, batch_size=2).drain()
    # What a destination raises costs an attempt.
    assert [queue.row(id_).attempt_count for id_ in ids] == [0] * 4


async def test_what_is_done_once_a_second_keeps_no_event_waiting(queue: Queue) -> None:
    queue.put("a")
    with watch(queue.engine) as log:
        await worker_of(queue, RecordingDestination()).drain()
    sent = [it.sql for it in log.statements]
    claim = next(n for n, it in enumerate(sent) if it.startswith("WITH runs"))
    sweep = next(n for n, it in enumerate(sent) if it.startswith("SELECT") and ".until <" in it)
    assert claim < sweep


@contextmanager
def noting_transactions(engine: Engine, part: str) -> Iterator[list[bool]]:
    """Of each statement that has this part, on psycopg: whether it was sent in a transaction."""
    noted: list[bool] = []

    def note(connection: Connection, _cursor: object, sql: str, *_: object) -> None:
        if part in sql:
            driver: Any = connection.connection.dbapi_connection
            noted.append(not driver.autocommit)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield noted
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_worker_that_is_woken_for_nothing_claims_once_and_asks_in_no_transaction_how_long_to_sleep(
    postgres_queue: Queue,
) -> None:
    queue = postgres_queue
    claims: list[str] = []

    def note_claim(sql: str, _parameters: object, run: Run) -> None:
        claims.extend([sql] if sql.startswith("WITH runs") else [])
        run()

    with (
        noting_transactions(queue.engine, "SELECT min(outbox_events_leases.until)") as asked,
        intercept(queue.engine, note_claim),
    ):
        async with running(worker_of(queue, RecordingDestination())):
            await eventually(lambda: asked)
            claims.clear()
            with queue.engine.begin() as connection:
                connection.execute(text("NOTIFY outbox_events"))
            await eventually(lambda: len(asked) == 2)
            claimed = list(claims)
    assert len(claimed) == 1
    assert asked == [False, False]


async def test_worker_opens_no_transaction_for_erasures_where_there_are_none(postgres_queue: Queue) -> None:
    with noting_transactions(postgres_queue.engine, "FROM outbox_events_erasures") as looked:
        await worker_of(postgres_queue, RecordingDestination()).drain()
    assert looked == [False]


async def test_delivery_that_ends_in_a_bug_of_ours_leaves_its_room_to_others(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    (stuck,) = queue.put("a")

    async def deliver(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        no_outcome: Any = "no outcome"
        return {event.id: no_outcome if event.id == stuck else Delivered() for event in claim.events}

    async with running(worker_of(queue, deliver, concurrency=1)):
        await eventually(lambda: "ended unsettled" in caplog.text)
        (id_,) = await asyncio.to_thread(queue.put, "b")
        await eventually(lambda: queue.row(id_).processed_at is not None)
    # Neither renewed nor handed back: its lease runs out, and costs it an attempt.
    assert queue.row(stuck).claim_token is not None


async def test_commit_wakes_a_sleeping_worker_at_once(queue: Queue) -> None:
    recorder = RecordingDestination()
    async with running(worker_of(queue, recorder)):
        await eventually(lambda: not queue.claimed_ids())
        (id_,) = await asyncio.to_thread(queue.put, "a")
        # Far below the poll of ten seconds.
        await eventually(lambda: queue.row(id_).processed_at is not None, seconds=3)


async def test_retry_is_made_when_it_is_due_and_not_at_the_poll(queue: Queue) -> None:
    (id_,) = queue.put("a")
    answers = iter([Retry("no")])
    recorder = RecordingDestination(lambda event: next(answers, Delivered()))
    async with running(worker_of(queue, recorder)):
        await eventually(lambda: queue.row(id_).processed_at is not None, seconds=6)


async def test_stop_finishes_what_is_in_flight(queue: Queue) -> None:
    (id_,) = queue.put("a")
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        began.set()
        await go_on.wait()
        return {event.id: Delivered() for event in claim.events}

    worker = worker_of(queue, slow)
    task = asyncio.create_task(worker.run())
    await began.wait()
    worker.stop()
    go_on.set()
    await task
    assert queue.row(id_).processed_at is not None


async def test_stop_hands_back_uncharged_what_does_not_finish_in_time(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlalchemy_outbox.delivering.in_flight.STOP_DEADLINE", timedelta(milliseconds=50))
    (id_,) = queue.put("a")
    began = asyncio.Event()

    async def endless(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    worker = worker_of(queue, endless)
    task = asyncio.create_task(worker.run())
    await began.wait()
    worker.stop()
    await task
    row = queue.row(id_)
    assert (row.claim_token, row.attempt_count, row.processed_at) == (None, 0, None)


async def test_stop_hands_back_uncharged_what_could_not_be_settled(queue: Queue) -> None:
    (id_,) = queue.put("a")
    refused: list[str] = []

    @event.listens_for(queue.engine, "before_cursor_execute")
    def refuse_settle(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "last_error=" in statement:
            refused.append(statement)
            raise OperationalError(statement, None, Exception("the database is away"))

    async with running(worker_of(queue, RecordingDestination())):
        await eventually(lambda: bool(refused))
    row = queue.row(id_)
    assert (row.claim_token, row.attempt_count, row.processed_at) == (None, 0, None)


async def test_worker_waits_for_a_table_that_is_not_there_yet(queue: Queue) -> None:
    queue.outbox.gate.drop(queue.engine)
    recorder = RecordingDestination()
    async with running(worker_of(queue, recorder)):
        (id_,) = await asyncio.to_thread(queue.put, "a")
        await asyncio.to_thread(queue.outbox.gate.create, queue.engine)
        await eventually(lambda: queue.row(id_).processed_at is not None)


async def test_worker_survives_the_loss_of_all_its_connections(outbox_postgres_url: str, outbox: Outbox) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, outbox)
    recorder = RecordingDestination()
    async with running(worker_of(queue, recorder)):
        first, *_ = await asyncio.to_thread(queue.put, "a")
        await eventually(lambda: queue.row(first).processed_at is not None)
        other = create_engine(outbox_postgres_url)
        with other.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND datname = current_database()"
                )
            )
        second = (await asyncio.to_thread(Queue(other, outbox).put, "a"))[0]
        await eventually(lambda: Queue(other, outbox).row(second).processed_at is not None)
        other.dispose()
    engine.dispose()


async def test_commit_of_another_process_wakes_a_sleeping_worker(outbox_postgres_url: str, outbox: Outbox) -> None:
    engine = create_engine(outbox_postgres_url)
    queue, listeners = Queue(engine, outbox), note_listeners(engine)
    async with running(worker_of(queue, RecordingDestination())):
        await eventually(lambda: bool(listeners))
        before = await asyncio.to_thread(enqueue_in_another_process, outbox_postgres_url)
        # Far below the poll of ten seconds.
        await eventually(lambda: count_delivered(engine) == before, seconds=3)
    engine.dispose()


async def test_lost_connection_that_listens_is_replaced(outbox_postgres_url: str, outbox: Outbox) -> None:
    engine = create_engine(outbox_postgres_url)
    queue, listeners = Queue(engine, outbox), note_listeners(engine)
    async with running(worker_of(queue, RecordingDestination())):
        await eventually(lambda: bool(listeners))
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": listeners[0]})
        await eventually(lambda: len(listeners) == 2)
        before = await asyncio.to_thread(enqueue_in_another_process, outbox_postgres_url)
        await eventually(lambda: count_delivered(engine) == before, seconds=3)
    engine.dispose()


async def test_sleeping_worker_stops_at_once(queue: Queue) -> None:
    worker = worker_of(queue, RecordingDestination())
    task = asyncio.create_task(worker.run())
    (id_,) = await asyncio.to_thread(queue.put, "a")
    await eventually(lambda: queue.row(id_).processed_at is not None)
    worker.stop()
    await asyncio.wait_for(task, 3)


async def test_sleeping_worker_ends_at_once_when_it_is_cancelled(queue: Queue) -> None:
    task = asyncio.create_task(worker_of(queue, RecordingDestination()).run())
    (id_,) = await asyncio.to_thread(queue.put, "a")
    await eventually(lambda: queue.row(id_).processed_at is not None)
    task.cancel()
    ended, _ = await asyncio.wait([task], timeout=3)
    assert ended


def note_listeners(engine: Engine) -> list[int]:
    """The server's processes behind the connections that workers take out of the pool, to listen by them."""
    pids: list[int] = []
    event.listen(engine, "detach", lambda connection, _: pids.append(connection.info.backend_pid))
    return pids


def count_delivered(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(
            text("SELECT count(*) FROM outbox_events WHERE processed_at IS NOT NULL")
        ).scalar_one()


def enqueue_in_another_process(url: str) -> int:
    return int(in_another_process(url, "print(len(Queue(engine, OUTBOX).put('a')))"))


def in_another_process(url: str, statement: str) -> str:
    """What the statement prints; `engine` is the database's."""
    program = (
        "import sys; from sqlalchemy import create_engine; from sqlalchemy_outbox import operations;"
        "from tests.outbox.conftest import OUTBOX; from tests.outbox.queue import Queue;"
        f"engine = create_engine(sys.argv[1]); {statement}; engine.dispose()"
    )
    backend = Path(__file__).parents[2]
    return subprocess.check_output([sys.executable, "-c", program, url], cwd=backend, text=True)


async def test_release_in_another_process_wakes_a_worker_that_sleeps_before_a_held_gate(
    outbox_postgres_url: str, outbox: Outbox
) -> None:
    engine = create_engine(outbox_postgres_url)
    queue, listeners = Queue(engine, outbox), note_listeners(engine)
    operations.hold(engine, outbox, reason="let me see", by="ann")
    async with running(worker_of(queue, RecordingDestination())):
        (id_,) = await asyncio.to_thread(queue.put, "a")
        await eventually(lambda: bool(listeners))
        assert queue.row(id_).claim_token is None
        await asyncio.to_thread(in_another_process, outbox_postgres_url, "operations.release(engine, OUTBOX, by='ann')")
        await eventually(lambda: queue.row(id_).processed_at is not None, seconds=3)
    engine.dispose()


async def test_moment_without_file_descriptors_ends_no_worker(
    outbox_postgres_url: str, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(outbox_postgres_url)
    queue, selector = Queue(engine, outbox), selectors.DefaultSelector
    refusals = 0

    def refuse_at_first() -> selectors.BaseSelector:
        nonlocal refusals
        if refusals > 0 and threading.current_thread().name.startswith("outbox-listener"):
            refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return selector()

    async def deliver_another() -> None:
        (id_,) = await asyncio.to_thread(queue.put, "a")
        await eventually(lambda: queue.row(id_).processed_at is not None)

    monkeypatch.setattr(selectors, "DefaultSelector", refuse_at_first)
    async with running(worker_of(queue, RecordingDestination())):
        await deliver_another()
        refusals = 2
        await deliver_another()
        await eventually(lambda: refusals == 0)
        await deliver_another()
    engine.dispose()


async def test_idle_worker_purges_what_is_older_than_its_retention(queue: Queue) -> None:
    ids = queue.put("a", "b")
    token, events = queue.claim()
    queue.settle(token, events, Delivered())
    queue.pass_time(timedelta(days=31))
    gate = Gate(queue.outbox, queue.engine, requests_per_second=1000)
    recorder = RecordingDestination()
    worker = Worker(queue.outbox, queue.engine, recorder, gate, types=TYPES, retention=timedelta(days=30))
    async with running(worker):
        await eventually(lambda: not any(queue.exists(id_) for id_ in ids))
        (kept,) = await asyncio.to_thread(queue.put, "a")
        await eventually(lambda: queue.row(kept).processed_at is not None)
    assert queue.exists(kept)


async def test_lease_that_a_dead_worker_left_is_noticed_when_it_runs_out(queue: Queue) -> None:
    """Not at the poll: the sleeping worker knows when the lease ends."""
    (id_,) = queue.put("a")
    queue.claim()
    queue.pass_time(LEASE - timedelta(seconds=1))
    async with running(worker_of(queue, RecordingDestination())):
        await eventually(lambda: queue.row(id_).attempt_count == 1, seconds=5)
