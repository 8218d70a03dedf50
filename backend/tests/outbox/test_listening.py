"""A worker's ear for other processes' commits: whatever becomes of its connection, it listens again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine, text

from outbox.notification import Notifier, listen
from tests.proxy import Proxy, proxied

CHANNEL = "outbox_events"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox.notification.PING_EVERY", timedelta(milliseconds=300))
    monkeypatch.setattr("outbox.notification.PING_DEADLINE", timedelta(seconds=1))
    monkeypatch.setattr("outbox.notification.RECONNECT_AFTER", timedelta(milliseconds=50))


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def notifier(engine: Engine) -> Iterator[Notifier]:
    notifier = Notifier(engine, CHANNEL)
    yield notifier
    notifier.close()


@pytest.fixture
def proxy_and_engine(postgres_url: str) -> Iterator[tuple[Proxy, Engine]]:
    """A way to the database that can be spoiled."""
    with proxied(postgres_url) as (proxy, url):
        engine = create_engine(url)
        yield proxy, engine
        engine.dispose()


class Bell:
    def __init__(self) -> None:
        self.rings = 0
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self.rings += 1
        self._rung.set()

    async def next_ring(self, seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            await self._rung.wait()
        self._rung.clear()


@asynccontextmanager
async def listening(engine: Engine) -> AsyncIterator[Bell]:
    """A bell that has rung once, for the connection that listens now."""
    bell = Bell()
    task = asyncio.create_task(listen(engine, CHANNEL, bell.ring))
    await bell.next_ring()
    yield bell
    began = time.monotonic()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert time.monotonic() - began < 3


async def test_listener_whose_connection_goes_silent_without_closing_listens_again(
    proxy_and_engine: tuple[Proxy, Engine], notifier: Notifier
) -> None:
    proxy, engine = proxy_and_engine
    async with listening(engine) as bell:
        assert proxy.silence(b"LISTEN") == 1
        notifier.notify()
        await bell.next_ring(seconds=5)
        notifier.notify()
        await bell.next_ring(seconds=5)


async def test_listener_whose_connection_is_reset_listens_again(
    proxy_and_engine: tuple[Proxy, Engine], notifier: Notifier
) -> None:
    proxy, engine = proxy_and_engine
    async with listening(engine) as bell:
        assert proxy.reset(b"LISTEN") == 1
        await bell.next_ring(seconds=5)
        notifier.notify()
        await bell.next_ring(seconds=5)


async def test_listener_that_waits_for_the_answer_to_its_ping_ends_at_once_when_cancelled(
    proxy_and_engine: tuple[Proxy, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.notification.PING_DEADLINE", timedelta(minutes=1))
    proxy, engine = proxy_and_engine
    async with listening(engine):
        proxy.silence(b"LISTEN")
        await eventually(lambda: proxy.silence(b"SELECT 1") == 1)


async def test_silent_connection_is_pinged_and_kept(engine: Engine) -> None:
    async with listening(engine) as bell:
        await eventually(lambda: listeners_that_were_pinged(engine) == 1)
        assert bell.rings == 1


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110  # A database sets no asyncio.Event.
            await asyncio.sleep(0.01)


def listeners_that_were_pinged(engine: Engine) -> int:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'SELECT 1'"
    with engine.connect() as connection:
        return connection.execute(text(statement)).scalar_one()
