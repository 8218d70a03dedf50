"""A commit in one process wakes the workers of others, through PostgreSQL's LISTEN and NOTIFY.

    commit ─▶ Notifier (a connection of its own, and a thread) ─NOTIFY─▶ PostgreSQL ─▶ Listener in each worker

NOTIFY inside the business transaction would make commits wait for each other, so it is sent apart, after the commit.
What goes missing here costs time and nothing else: the worker's poll finds the events.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine

from sqlalchemy_outbox.database import postgresql
from sqlalchemy_outbox.waking.notifier_thread import (
    IDLE_MAX,
    NOTIFY_EVERY,
    QUEUE_IS_FULL,
    NotifierThread,
    say_that_polls_do_it,
)

_ANSWER_DEADLINE = timedelta(seconds=5)
# A notification is not kept anyway, so nobody is to wait until it is on the disk. For this transaction only: behind a
# pooler the session is somebody else's afterwards.
_NOTIFY = sql.SQL("BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {}; COMMIT")
_QUEUE_USAGE = b"SELECT pg_catalog.pg_notification_queue_usage()"


class Notifier(NotifierThread):
    """Notifies one channel of one database, by a connection and a thread that live while there are commits.

    Whoever commits sends the notification itself where the connection is free, which is sooner than the thread would
    have its turn. The thread connects, hears the answers, and sends what was wanted meanwhile.
    """

    def __init__(self, engine: Engine, channel: str) -> None:
        super().__init__()
        self._engine = engine
        self._notify = _NOTIFY.format(sql.Identifier(channel)).as_bytes(None)
        # The connection, while it is free for whoever commits; otherwise whether something is to be sent by the thread.
        self._free: psycopg.Connection[Any] | None = None

    def notify(self) -> None:
        """Have the workers of other processes woken soon; waits for nothing and never raises."""
        with self._condition:
            if self._free is not None:
                self._send(self._free)
                self._free = None
            else:
                self._is_wanted = True
                self._start_if_needed()
            self._condition.notify()

    def _run(self) -> None:
        try:
            is_lost = True
            while is_lost:
                is_lost = self._serve()
        except (psycopg.Error, OSError) as error:
            say_that_polls_do_it(error)
        finally:
            with self._condition:
                self._resign()

    def _serve(self) -> bool:
        """Notify by one connection until the thread is to end; true when it was lost, and another is worth a try."""
        has_served = False
        with self._connect() as connection:
            try:
                while self._wait_until_sent(connection):
                    self._hear_answer(connection)
                    has_served = True
                    time.sleep(NOTIFY_EVERY.total_seconds())
            except psycopg.Error:
                if not has_served:
                    raise
                with self._condition:
                    # What it was sent, nobody may have heard.
                    self._is_wanted = True
                return True
        return False

    def _connect(self) -> psycopg.Connection[Any]:
        """Like one of the engine's own, which its URL alone may not lead to."""
        lent = self._engine.pool.recreate().connect()
        connection: Any = lent.dbapi_connection
        lent.detach()
        connection.autocommit = True
        return connection  # type: ignore[no-any-return]

    def _hear_answer(self, connection: psycopg.Connection[Any]) -> None:
        try:
            postgresql.await_answer(connection, _ANSWER_DEADLINE)
        except postgresql.Refused as error:
            if error.sqlstate != QUEUE_IS_FULL:
                raise
            # It stays full until somebody asks, even when nothing holds it up any more.
            postgresql.ask(connection, _QUEUE_USAGE, _ANSWER_DEADLINE)
            self._send(connection)
            postgresql.await_answer(connection, _ANSWER_DEADLINE)

    def _wait_until_sent(self, connection: psycopg.Connection[Any]) -> bool:
        """False when the thread is to end, by `close` or because nothing was sent for long."""
        with self._condition:
            if self._is_wanted:
                self._is_wanted = False
                self._send(connection)
                return True
            # Another thread may have begun meanwhile, with a connection of its own to lend.
            if not self._is_current():
                return False
            self._free = connection
            self._condition.wait_for(
                lambda: self._free is not connection or not self._is_current(), IDLE_MAX.total_seconds()
            )
            if self._free is not connection:
                return True
            self._free = None
            # Before the connection is closed: whoever commits meanwhile is to begin anew.
            self._resign()
            return False

    def _send(self, connection: psycopg.Connection[Any]) -> None:
        # What went wrong is found by the thread, when it waits for the answer.
        with suppress(psycopg.Error):
            connection.pgconn.send_query(self._notify)
            connection.pgconn.flush()
