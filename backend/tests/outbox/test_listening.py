"""A worker's own connection: it hears of other processes' commits, and whatever becomes of it, it is replaced."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, QueuePool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from instruments.urls import plain_url
from sqlalchemy_outbox.database.transaction import Source, for_single_statements
from sqlalchemy_outbox.waking import wakeup
from sqlalchemy_outbox.waking.listener import Listener
from sqlalchemy_outbox.waking.notifier import Notifier
from sqlalchemy_outbox.waking.notifier_thread import NOTIFY_EVERY
from sqlalchemy_outbox.waking.wake_event import WakeEvent
from tests.outbox.conftest import OUTBOX
from tests.proxy import Proxy, proxied

CHANNEL = "outbox_events"
LONG = timedelta(minutes=1)
SHORT = timedelta(milliseconds=200)
AT_ONCE_SECONDS = 5


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlalchemy_outbox.database.postgresql.PING_DEADLINE", timedelta(seconds=1))


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


class Ear:
    """A listener and its wake event; it waits in a thread, as a worker's does."""

    def __init__(self, engine: Engine) -> None:
        self.wake_event = WakeEvent()
        self.listener = Listener(for_single_statements(engine), CHANNEL, self.wake_event)

    def wait(self, longest: timedelta = LONG) -> Future[int]:
        """Begin to wait; in the end, the process of the server that the connection leads to."""
        source = self.listener.source(longest)
        return source.threads.submit(self._wait, source)

    def _wait(self, source: Source) -> int:
        with source.connect() as connection:
            pid: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            return pid

    def close(self) -> None:
        self.wake_event.set()
        self.listener.close()


@contextmanager
def listening(engine: Engine) -> Iterator[Ear]:
    """One that listens."""
    subscription = Ear(engine)
    try:
        # A new connection is lent at once, whatever the wait.
        subscription.wait().result(AT_ONCE_SECONDS)
        yield subscription
    finally:
        subscription.close()


def waits_to_the_end(subscription: Ear) -> bool:
    began_at = time.monotonic()
    subscription.wait(SHORT).result(AT_ONCE_SECONDS)
    return time.monotonic() - began_at >= SHORT.total_seconds()


def test_notification_ends_a_wait_and_no_other(engine: Engine, notifier: Notifier) -> None:
    with listening(engine) as subscription:
        waiting = subscription.wait()
        notifier.notify()
        waiting.result(AT_ONCE_SECONDS)
        assert waits_to_the_end(subscription)


def test_notification_that_arrives_with_an_answer_ends_the_next_wait(engine: Engine) -> None:
    with listening(engine) as subscription:
        with subscription.listener.connection(timedelta(0)) as connection:
            connection.execute(text(f"NOTIFY {CHANNEL}"))
        subscription.wait().result(AT_ONCE_SECONDS)
        assert waits_to_the_end(subscription)


def test_bell_ends_a_wait_and_no_other(engine: Engine) -> None:
    with listening(engine) as subscription:
        waiting = subscription.wait()
        subscription.wake_event.set()
        waiting.result(AT_ONCE_SECONDS)
        assert waits_to_the_end(subscription)


def test_bell_that_rang_before_a_wait_ends_it(engine: Engine) -> None:
    with listening(engine) as subscription:
        subscription.wake_event.set()
        subscription.wait().result(AT_ONCE_SECONDS)
        assert waits_to_the_end(subscription)


def test_connection_is_pinged_and_kept_while_nothing_is_heard(engine: Engine) -> None:
    with listening(engine) as subscription:
        pids = {subscription.wait(SHORT).result(AT_ONCE_SECONDS) for _ in range(3)}
    assert len(pids) == 1


def test_connection_that_goes_silent_without_closing_is_replaced(
    proxy_and_engine: tuple[Proxy, Engine], notifier: Notifier
) -> None:
    proxy, engine = proxy_and_engine
    with listening(engine) as subscription:
        pid = subscription.wait(SHORT).result(AT_ONCE_SECONDS)
        assert proxy.silence(b"LISTEN") == 1
        assert subscription.wait(SHORT).result(AT_ONCE_SECONDS) != pid
        waiting = subscription.wait()
        notifier.notify()
        waiting.result(AT_ONCE_SECONDS)


def test_connection_that_is_reset_is_replaced_at_once(
    proxy_and_engine: tuple[Proxy, Engine], notifier: Notifier
) -> None:
    proxy, engine = proxy_and_engine
    with listening(engine) as subscription:
        pid = subscription.wait(SHORT).result(AT_ONCE_SECONDS)
        waiting = subscription.wait()
        assert proxy.reset(b"LISTEN") == 1
        assert waiting.result(AT_ONCE_SECONDS) != pid
        waiting = subscription.wait()
        notifier.notify()
        waiting.result(AT_ONCE_SECONDS)


def test_connection_on_which_something_failed_is_replaced(engine: Engine) -> None:
    with listening(engine) as subscription:
        pid = subscription.wait(SHORT).result(AT_ONCE_SECONDS)
        with pytest.raises(DBAPIError), subscription.listener.connection(timedelta(0)) as connection:
            connection.execute(text("SELECT 1 / 0"))
        assert subscription.wait().result(AT_ONCE_SECONDS) != pid


def test_connection_that_cannot_be_had_is_an_error_of_the_database(proxy_and_engine: tuple[Proxy, Engine]) -> None:
    proxy, engine = proxy_and_engine
    subscription = Ear(engine)
    proxy.close()
    with pytest.raises(OperationalError):
        subscription.wait().result(AT_ONCE_SECONDS)
    subscription.close()


def test_connection_is_none_of_those_that_requests_share(engine: Engine) -> None:
    with listening(engine):
        assert isinstance(engine.pool, QueuePool)
        assert engine.pool.checkedout() == 0


def test_closed_listener_leaves_no_connection_and_no_word(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with listening(engine) as subscription:
        pid = subscription.wait(SHORT).result(AT_ONCE_SECONDS)
    wait_for_end_of(engine, pid)
    assert caplog.records == []


def test_listener_lends_a_connection_of_a_database_that_refuses_to_tell(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = Ear(engine)
    monkeypatch.setattr(subscription.listener, "_listen", b"LISTEN TO ME")
    subscription.wait().result(AT_ONCE_SECONDS)
    subscription.close()
    (warning,) = caplog.messages
    assert "does not tell" in warning
    assert "syntax error" in warning


def test_connection_that_ends_with_its_first_answer_is_an_error_of_the_database(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a pooler that has no server: no refusal to tell, after which it would be listened to by no other."""
    subscription = Ear(engine)
    monkeypatch.setattr(subscription.listener, "_listen", b"SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(OperationalError):
        subscription.wait().result(AT_ONCE_SECONDS)
    subscription.close()
    assert caplog.messages == []


def test_notification_that_fell_on_a_lost_connection_is_sent_by_another(
    proxy_and_engine: tuple[Proxy, Engine], engine: Engine
) -> None:
    proxy, spoiled = proxy_and_engine
    notifier = Notifier(spoiled, CHANNEL)
    with listening(engine) as subscription:
        waiting = subscription.wait()
        notifier.notify()
        waiting.result(AT_ONCE_SECONDS)
        # What was sent has been answered.
        assert waits_to_the_end(subscription)
        assert proxy.reset(b"NOTIFY") == 1
        waiting = subscription.wait()
        notifier.notify()
        waiting.result(AT_ONCE_SECONDS)
    notifier.close()


def test_engines_made_of_one_share_a_notifier(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    before = notifier_threads()
    for tenant in range(8):
        wakeup.wake(engine.execution_options(tenant=tenant), OUTBOX)
    wakeup.wake(engine, OUTBOX)
    (its,) = notifier_threads() - before
    engine.dispose()
    assert not its.is_alive()


def notifier_threads() -> set[threading.Thread]:
    return {it for it in threading.enumerate() if it.name == "outbox-notifier"}


def test_notifier_that_was_closed_notifies_anew(engine: Engine, notifier: Notifier) -> None:
    with listening(engine) as subscription:
        for _ in range(3):
            waiting = subscription.wait()
            notifier.notify()
            waiting.result(AT_ONCE_SECONDS)
            notifier.close()


def test_notifications_of_a_stream_of_commits_are_bundled(postgres_url: str, notifier: Notifier) -> None:
    with psycopg.connect(plain_url(make_url(postgres_url)), autocommit=True) as hearing:
        hearing.execute(f"LISTEN {CHANNEL}")
        began_at = time.monotonic()
        for _ in range(1000):
            notifier.notify()
        most = 2 + (time.monotonic() - began_at) / NOTIFY_EVERY.total_seconds()
        assert 1 <= len(list(hearing.notifies(timeout=1))) <= most


def test_forked_process_notifies_by_a_connection_of_its_own(outbox_postgres_url: str) -> None:
    """Two processes that wrote on one connection would spoil it for both."""
    program = """
import os, sys, time
from sqlalchemy import NullPool, create_engine, text
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import Queue

def wait_for_notifiers(count):
    notifiers = text("SELECT FROM pg_stat_activity WHERE query ~ '^BEGIN.*NOTIFY'")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while len(connection.execute(notifiers).all()) != count:
            time.sleep(0.01)

engine = create_engine(sys.argv[1], poolclass=NullPool)
Queue(engine, OUTBOX).put("a")
wait_for_notifiers(1)
if (child := os.fork()) == 0:
    Queue(engine, OUTBOX).put("a")
    wait_for_notifiers(2)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    backend = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, outbox_postgres_url], cwd=backend, check=True, timeout=30)


def wait_for_end_of(engine: Engine, pid: int) -> None:
    deadline = time.monotonic() + AT_ONCE_SECONDS
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.execute(text("SELECT FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}).first():
            assert time.monotonic() < deadline
