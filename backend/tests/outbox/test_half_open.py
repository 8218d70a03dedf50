"""A connection whose other end acknowledges everything and answers nothing: whoever waits on it goes on in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from instruments.statements import Run, intercept
from sqlalchemy_outbox.database import postgresql
from sqlalchemy_outbox.database.transaction import transact
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.outcome import Delivered, Outcome
from sqlalchemy_outbox.testing import RecordingDestination
from sqlalchemy_outbox.waking.notifier import Notifier
from tests.outbox.queue import Queue
from tests.outbox.test_listening import CHANNEL, listening
from tests.outbox.test_worker import eventually, running, worker_of
from tests.proxy import Proxy, proxied

DEADLINE = timedelta(seconds=1)
# Well below the minutes that TCP would take, and far above the deadlines, for a busy machine.
IN_TIME_SECONDS = 15


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (
        "database.transaction.DEADLINE",
        "database.postgresql.PING_DEADLINE",
        "waking.notifier._ANSWER_DEADLINE",
    ):
        monkeypatch.setattr(f"sqlalchemy_outbox.{place}", DEADLINE)


@pytest.fixture
def engine(outbox_postgres_url: str, outbox: Outbox) -> Iterator[Engine]:
    """The direct way to the database."""
    engine = create_engine(outbox_postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def proxy_and_engine(engine: Engine) -> Iterator[tuple[Proxy, Engine]]:
    with proxied(engine.url.render_as_string(hide_password=False)) as (proxy, url):
        spoiled = create_engine(url, connect_args=postgresql.connect_arguments(make_url(url)))
        postgresql.ping_at_checkout(spoiled)
        yield proxy, spoiled
        spoiled.dispose()


def one(connection: Connection) -> int:
    return connection.execute(text("SELECT 1")).scalar_one()


async def test_statement_that_is_never_answered_is_given_up_at_its_deadline(
    proxy_and_engine: tuple[Proxy, Engine],
) -> None:
    proxy, engine = proxy_and_engine

    def ask_in_silence(connection: Connection) -> int:
        assert proxy.silence() == 1
        return one(connection)

    began_at = time.monotonic()
    with pytest.raises(DBAPIError):
        await transact(engine, ask_in_silence)
    assert DEADLINE.total_seconds() <= time.monotonic() - began_at < IN_TIME_SECONDS
    assert await transact(engine, one) == 1


async def test_commit_that_is_never_answered_is_given_up_at_its_deadline(
    proxy_and_engine: tuple[Proxy, Engine],
) -> None:
    proxy, engine = proxy_and_engine

    def ask_before_the_silence(connection: Connection) -> None:
        one(connection)
        proxy.silence()

    async with asyncio.timeout(IN_TIME_SECONDS):
        with pytest.raises(DBAPIError):
            await transact(engine, ask_before_the_silence)


def test_pooled_connection_that_went_silent_is_replaced(proxy_and_engine: tuple[Proxy, Engine]) -> None:
    proxy, engine = proxy_and_engine
    with engine.connect() as connection:
        one(connection)
    assert proxy.silence() == 1
    began_at = time.monotonic()
    with engine.connect() as connection:
        assert one(connection) == 1
    assert time.monotonic() - began_at < IN_TIME_SECONDS


def test_pooled_connection_that_the_server_closed_is_replaced(proxy_and_engine: tuple[Proxy, Engine]) -> None:
    proxy, engine = proxy_and_engine
    with engine.connect() as connection:
        one(connection)
    assert proxy.reset() == 1
    with engine.connect() as connection:
        assert one(connection) == 1


async def test_worker_whose_connections_all_go_silent_goes_on_delivering(
    engine: Engine, outbox: Outbox, proxy_and_engine: tuple[Proxy, Engine]
) -> None:
    """Those in the pool, the one by which it claims, and the one by which it would settle."""
    proxy, spoiled = proxy_and_engine
    queue = Queue(engine, outbox)
    delivered: list[int] = []

    async def deliver_in_silence(claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        await gate.enter(claim.lease)
        if not delivered:
            assert proxy.silence() >= 2
        delivered.extend(event.id for event in claim.events)
        return {event.id: Delivered() for event in claim.events}

    (first,) = await asyncio.to_thread(queue.put, "a")
    async with running(worker_of(Queue(spoiled, outbox), deliver_in_silence)):
        await eventually(lambda: queue.row(first).processed_at is not None, IN_TIME_SECONDS)
        (second,) = await asyncio.to_thread(queue.put, "a")
        await eventually(lambda: queue.row(second).processed_at is not None, IN_TIME_SECONDS)
    assert delivered == [first, second]
    assert queue.row(first).attempt_count == 0


async def test_claim_whose_answer_was_lost_is_handed_back_and_charged_to_nobody(
    engine: Engine, outbox: Outbox, proxy_and_engine: tuple[Proxy, Engine]
) -> None:
    proxy, spoiled = proxy_and_engine
    deafened: list[int] = []

    def deafen_before_claim(sql: str, _parameters: object, run: Run) -> None:
        if "taken AS" in sql and not deafened:
            deafened.append(proxy.deafen())
        run()

    queue = Queue(engine, outbox)
    (id_,) = await asyncio.to_thread(queue.put, "a")
    with intercept(spoiled, deafen_before_claim):
        async with running(worker_of(Queue(spoiled, outbox), RecordingDestination())):
            await eventually(lambda: queue.row(id_).claim_token is not None)
            await eventually(lambda: queue.row(id_).processed_at is not None, IN_TIME_SECONDS)
    assert queue.row(id_).attempt_count == 0


async def test_notifier_whose_connection_went_silent_notifies_by_another(
    engine: Engine, proxy_and_engine: tuple[Proxy, Engine]
) -> None:
    proxy, spoiled = proxy_and_engine
    notifier = Notifier(spoiled, CHANNEL)
    with listening(engine) as subscription:
        notifier.notify()
        await asyncio.wrap_future(subscription.wait())
        assert proxy.silence(b"NOTIFY") == 1
        heard = asyncio.wrap_future(subscription.wait())
        async with asyncio.timeout(IN_TIME_SECONDS):
            while not heard.done():
                notifier.notify()
                await asyncio.sleep(0.05)
    notifier.close()
