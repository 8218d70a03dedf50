"""A worker's own connection to PostgreSQL: it claims by it, and hears by it of commits in other processes meanwhile.

Heard by the thread and the connection that claim, a commit is claimed without a way through the worker's loop.
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from sqlalchemy_outbox.database import pooler, postgresql
from sqlalchemy_outbox.database.transaction import Source
from sqlalchemy_outbox.waking.wake_event import WakeUp

log = logging.getLogger(__name__)

# Of rings, read at once; those that are left end the next wait, which costs a look for events.
_RINGS_MAX = 4096


@dataclass(frozen=True, slots=True)
class _Ear:
    """What a listener waits on: the connection, with the driver's beneath it, and a pair of sockets for the bell."""

    connection: Connection
    driver: psycopg.Connection[Any]
    rung: socket.socket
    ringing: socket.socket

    def ring(self) -> None:
        # What has rung so often that the buffer is full will be heard; what is closed, nobody waits for.
        with suppress(OSError):
            self.ringing.send(b"\0")

    def close(self) -> None:
        self.rung.close()
        self.ringing.close()
        _close(self.connection, self.driver)


class Listener:
    """Listens to one channel for a worker with this bell; used by one thread at a time."""

    def __init__(self, engine: Engine, channel: str, bell: WakeUp) -> None:
        self._engine = engine
        self._listen = sql.SQL("LISTEN {}").format(sql.Identifier(channel)).as_bytes()
        self._bell = bell
        self._thread = ThreadPoolExecutor(1, "outbox-listener")
        self._ear: _Ear | None = None
        self._has_heard = False
        self._has_told = False

    def source(self, longest: timedelta) -> Source:
        """The connection after such a wait, in a thread of our own: no other work is to wait for it."""
        return Source(partial(self.connection, longest), self._thread, self._bell.ring)

    @contextmanager
    def connection(self, longest: timedelta) -> Iterator[Connection]:
        """Lend the connection once a commit is heard of or the bell is rung, or after `longest`.

        One that was lost is replaced, and lent at once, since nobody told of what was committed before it listened. One
        on which something fails is given up.
        """
        if self._ear is None or not self._wait(self._ear, longest):
            self._hang_up()
            self._ear = self._connect()
        try:
            yield self._ear.connection
        except BaseException:
            self._hang_up()
            raise

    def close(self) -> None:
        self._thread.shutdown()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._ear is not None:
            ear, self._ear = self._ear, None
            ear.close()

    def _connect(self) -> _Ear:
        try:
            connection, driver = self._connect_to(self._listen)
        except OperationalError as error:
            if not isinstance(error.orig, postgresql.Refused):
                raise
            # The poll finds the events.
            self._tell_once(str(error.orig))
            connection, driver = self._connect_to(b"SELECT 1")
        try:
            rung, ringing = socket.socketpair()
        except OSError:
            _close(connection, driver)
            raise
        rung.setblocking(False)
        ringing.setblocking(False)
        return _Ear(connection, driver, rung, ringing)

    def _connect_to(self, statement: bytes) -> tuple[Connection, psycopg.Connection[Any]]:
        """A new connection of our own, on which the statement was carried out."""
        connection = self._engine.connect()
        # Held for as long as the worker runs, it must not be one of those that the pool has for requests.
        connection.detach()
        driver: Any = connection.connection.dbapi_connection
        driver.add_notify_handler(self._hear)
        try:
            if pooler.is_pooled(connection):
                # What it listened to, another's session would hear.
                self._tell_once("a pooler lies before it, which passes no notifications on")
                pooler.prepare_nothing(driver)
                statement = b"SELECT 1"
            postgresql.ask(driver, statement, postgresql.PING_DEADLINE)
        except psycopg.Error as error:
            _close(connection, driver)
            raise OperationalError(statement.decode(), None, error) from error
        return connection, driver

    def _tell_once(self, reason: str) -> None:
        if not self._has_told:
            self._has_told = True
            log.warning(
                "The database does not tell of other processes' commits (%s): the worker's poll finds their events. "
                "A direct URL to listen by (DATABASE_LISTEN_URL) ends that.",
                reason,
            )

    def _wait(self, ear: _Ear, longest: timedelta) -> bool:
        """Wait until there may be something to claim; false when the connection is found to be lost."""
        if longest <= timedelta(0):
            return True
        try:
            with self._bell.waking(ear.ring), selectors.DefaultSelector() as selector:
                selector.register(ear.rung, selectors.EVENT_READ)
                selector.register(ear.driver, selectors.EVENT_READ)
                if self._has_been_told(ear.driver):
                    return True
                ready = [key.fileobj for key, _ in selector.select(longest.total_seconds())]
                if ear.rung in ready:
                    ear.rung.recv(_RINGS_MAX)
                elif not ready:
                    # Of a connection that lost its other end silently, nothing is heard either.
                    postgresql.ask(ear.driver, b"SELECT 1", postgresql.PING_DEADLINE)
                self._has_been_told(ear.driver)
        except psycopg.OperationalError:
            return False
        return True

    def _has_been_told(self, driver: psycopg.Connection[Any]) -> bool:
        """Whether a notification has arrived since this was asked last."""
        driver.pgconn.consume_input()
        while driver.pgconn.notifies() is not None:
            self._has_heard = True
        has_heard, self._has_heard = self._has_heard, False
        return has_heard

    def _hear(self, _: psycopg.Notify) -> None:
        """Of a notification that arrived with the answer to a statement."""
        self._has_heard = True


def _close(connection: Connection, driver: psycopg.Connection[Any]) -> None:
    # First the driver's, and no word to the pool: a server that is gone is not asked to roll back.
    driver.close()
    connection.invalidate()
    connection.close()
