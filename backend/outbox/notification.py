"""A commit in one process wakes the workers of others, through PostgreSQL's LISTEN and NOTIFY.

    commit ─▶ Notifier (a thread with a connection of its own) ─NOTIFY─▶ PostgreSQL ─▶ listen() in each worker ─▶ bell

NOTIFY inside the business transaction would make commits wait for each other, so it is sent apart, after the commit.
What goes missing here costs time and nothing else: the worker's poll finds the events.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine

from outbox import postgresql

log = logging.getLogger(__name__)

# The first commit after a pause is notified at once; a stream of them, this often.
NOTIFY_EVERY = timedelta(milliseconds=20)
# A connection that lost its other end silently is found out by asking, this long after the last sign of life.
PING_EVERY = timedelta(seconds=10)
PING_DEADLINE = timedelta(seconds=5)
RECONNECT_AFTER = timedelta(seconds=1)
# A process that stops committing gives its connection back.
IDLE_MAX_SECONDS = 60.0


class Notifier:
    """Notifies one channel of one database from a thread that lives while there are commits."""

    def __init__(self, engine: Engine, channel: str) -> None:
        self._engine = engine
        self._notify = sql.SQL("NOTIFY {}").format(sql.Identifier(channel))
        self._condition = threading.Condition()
        self._is_wanted = False
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        """Have the workers of other processes woken soon; returns at once and never raises."""
        with self._condition:
            self._is_wanted = True
            if self._thread is not None:
                self._condition.notify()
                return
            thread = threading.Thread(target=self._run, name="outbox-notifier", daemon=True)
            # Where the system gives no thread more, or Python is about to end, the poll finds the event.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def close(self) -> None:
        """Send what is still to be sent, and end the thread and its connection; a later notify begins anew."""
        with self._condition:
            thread, self._thread = self._thread, None
            self._condition.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(PING_DEADLINE.total_seconds())

    def _run(self) -> None:
        try:
            with psycopg.connect(**_connect_arguments(self._engine), autocommit=True) as connection:
                # A notification is not kept anyway, so nobody is to wait until it is on the disk.
                postgresql.ask(connection, b"SET synchronous_commit = off", PING_DEADLINE)
                while self._is_to_notify():
                    postgresql.ask(connection, self._notify.as_bytes(connection), PING_DEADLINE)
                    time.sleep(NOTIFY_EVERY.total_seconds())
        except psycopg.Error as error:
            log.debug("Workers of other processes find the events by their poll: %s", type(error).__name__)
            self._resign()

    def _is_to_notify(self) -> bool:
        """Wait for a commit; false when the thread is to end, by `close` or because none came for long."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_wanted or not self._is_current(), IDLE_MAX_SECONDS)
            if not self._is_wanted:
                self._resign()
                return False
            self._is_wanted = False
            return True

    def _is_current(self) -> bool:
        return self._thread is threading.current_thread()

    def _resign(self) -> None:
        with self._condition:
            if self._is_current():
                self._thread = None


async def listen(engine: Engine, channel: str, ring: Callable[[], None]) -> None:
    """Call `ring` at every notification, for ever; a connection that died or went silent is replaced."""
    while True:
        try:
            await _listen_once(engine, channel, ring)
        except (psycopg.Error, TimeoutError, OSError) as error:
            log.debug("Listening anew: %s", type(error).__name__)
            await asyncio.sleep(RECONNECT_AFTER.total_seconds())


async def _listen_once(engine: Engine, channel: str, ring: Callable[[], None]) -> None:
    async with asyncio.timeout(PING_DEADLINE.total_seconds()):
        connection = await psycopg.AsyncConnection.connect(**_connect_arguments(engine), autocommit=True)
    async with connection:
        await _ask(connection, sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        # Whatever was committed before this moment was notified to nobody.
        ring()
        while True:
            has_heard = False
            async for _ in connection.notifies(timeout=PING_EVERY.total_seconds(), stop_after=1):
                has_heard = True
                ring()
            if not has_heard:
                await _ask(connection, sql.SQL("SELECT 1"))


async def _ask(connection: psycopg.AsyncConnection[Any], statement: sql.SQL | sql.Composed) -> None:
    """Have the server answer within the deadline, or close the connection and raise TimeoutError."""
    answer = asyncio.create_task(connection.execute(statement))
    try:
        async with asyncio.timeout(PING_DEADLINE.total_seconds()):
            await asyncio.shield(answer)
    except (TimeoutError, asyncio.CancelledError):
        # Cancelled while the connection is open, psycopg would first wait for what the server says to that.
        await connection.close()
        answer.cancel()
        raise


def _connect_arguments(engine: Engine) -> dict[str, Any]:
    """What the engine's own connections are made with, as far as its URL says, and timeouts."""
    _, arguments = engine.dialect.create_connect_args(engine.url)
    return {**postgresql.connect_arguments(engine.url), **arguments}
