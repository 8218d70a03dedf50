"""NOTIFY by whatever driver an engine has, sync or async: by a connection like the engine's own, in a thread.

    commit ─▶ PlainNotifier (a thread, and a connection of a pool made anew) ─NOTIFY─▶ PostgreSQL

On psycopg a commit sends its notification itself, which is sooner (`notification`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, Pool, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.util.concurrency import greenlet_spawn

from sqlalchemy_outbox.database.isolation import sqlstate_of
from sqlalchemy_outbox.waking.notifier_thread import (
    IDLE_MAX,
    NOTIFY_EVERY,
    QUEUE_IS_FULL,
    NotifierThread,
    say_that_polls_do_it,
)

_QUEUE_USAGE = text("SELECT pg_catalog.pg_notification_queue_usage()")


class PlainNotifier(NotifierThread):
    """Notifies one channel of one database; the thread and its connection live while there are commits."""

    def __init__(self, engine: Engine, channel: str) -> None:
        super().__init__()
        # Neither the engine itself, whose pool is the application's, nor its URL alone, which may not be all of it.
        self._make_pool: Callable[[], Pool] = engine.pool.recreate
        self._dialect, self._url = engine.dialect, engine.url
        self._notify = text(f"NOTIFY {engine.dialect.identifier_preparer.quote_identifier(channel)}")

    def notify(self) -> None:
        """Have the workers of other processes woken soon; waits for nothing and never raises."""
        with self._condition:
            self._is_wanted = True
            self._start_if_needed()
            self._condition.notify()

    def _run(self) -> None:
        engine = Engine(self._make_pool(), self._dialect, self._url)
        try:
            if self._dialect.is_async:
                # A loop of the thread's own: a connection belongs to the loop that made it.
                asyncio.run(greenlet_spawn(self._serve, engine))
            else:
                self._serve(engine)
        except (SQLAlchemyError, OSError, self._dialect.loaded_dbapi.Error) as error:
            say_that_polls_do_it(error)
        finally:
            with self._condition:
                self._resign()

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
            if not was_wanted:
                self._resign()
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
