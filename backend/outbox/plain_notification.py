"""NOTIFY by whatever driver an engine has, sync or async: by a connection like the engine's own, in a thread.

    commit ─▶ PlainNotifier (a thread, and a connection of a pool made anew) ─NOTIFY─▶ PostgreSQL

On psycopg a commit sends its notification itself, which is sooner (`notification`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import Connection, Engine, Pool, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.util.concurrency import greenlet_spawn

from outbox.isolation import sqlstate_of

log = logging.getLogger(__name__)

# The first commit after a pause is notified at once; a stream of them, this often.
NOTIFY_EVERY = timedelta(milliseconds=20)
# A process that stops committing gives its connection back.
IDLE_MAX = timedelta(seconds=60)
# PostgreSQL's "program limit exceeded", by which it refuses a NOTIFY.
QUEUE_IS_FULL = "54000"
_CLOSE_DEADLINE = timedelta(seconds=5)
_QUEUE_USAGE = text("SELECT pg_catalog.pg_notification_queue_usage()")


class PlainNotifier:
    """Notifies one channel of one database; the thread and its connection live while there are commits."""

    def __init__(self, engine: Engine, channel: str) -> None:
        # Neither the engine itself, whose pool is the application's, nor its URL alone, which may not be all of it.
        self._make_pool: Callable[[], Pool] = engine.pool.recreate
        self._dialect, self._url = engine.dialect, engine.url
        self._notify = text(f"NOTIFY {engine.dialect.identifier_preparer.quote_identifier(channel)}")
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_wanted = False

    def notify(self) -> None:
        """Have the workers of other processes woken soon; waits for nothing and never raises."""
        with self._condition:
            self._is_wanted = True
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="outbox-notifier", daemon=True)
                # Where the system gives no thread more, the poll finds the event.
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
            self._condition.notify()

    def close(self) -> None:
        """Send what is still to be sent, and end the thread and its connection; a later notify begins anew."""
        with self._condition:
            thread, self._thread = self._thread, None
            self._condition.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_DEADLINE.total_seconds())

    def _run(self) -> None:
        engine = Engine(self._make_pool(), self._dialect, self._url)
        try:
            if self._dialect.is_async:
                # A loop of the thread's own: a connection belongs to the loop that made it.
                asyncio.run(greenlet_spawn(self._serve, engine))
            else:
                self._serve(engine)
        except (SQLAlchemyError, OSError, self._dialect.loaded_dbapi.Error) as error:
            log.debug("Workers of other processes find the events by their poll: %s", type(error).__name__)
        finally:
            with self._condition:
                if self._is_current():
                    self._thread = None

    def _serve(self, engine: Engine) -> None:
        try:
            with engine.connect() as connection:
                while self._wait_until_wanted():
                    self._send(connection)
                    time.sleep(NOTIFY_EVERY.total_seconds())
        finally:
            engine.pool.dispose()

    def _wait_until_wanted(self) -> bool:
        """False when the thread is to end, by `close` or because nothing was committed for long."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_wanted or not self._is_current(), IDLE_MAX.total_seconds())
            was_wanted, self._is_wanted = self._is_wanted, False
            if not was_wanted and self._is_current():
                self._thread = None
            return was_wanted

    def _send(self, connection: Connection) -> None:
        try:
            self._execute(connection)
        except SQLAlchemyError as error:
            if sqlstate_of(error) == QUEUE_IS_FULL:
                # It stays full until somebody asks, even when nothing holds it up any more.
                with connection.begin():
                    connection.execute(_QUEUE_USAGE)
            elif not connection.invalidated:
                raise
            # Lost since the last commit: by another, once.
            self._execute(connection)

    def _execute(self, connection: Connection) -> None:
        with connection.begin():
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            connection.execute(self._notify)

    def _is_current(self) -> bool:
        return self._thread is threading.current_thread()
