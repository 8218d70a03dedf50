"""A worker's own connection to PostgreSQL: it claims by it, and receives other processes' notifications by it.

One thread waits and claims, so that a commit is claimed without a detour through the worker's event loop.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
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
from sqlalchemy.exc import DBAPIError, OperationalError

from sqlalchemy_outbox.database import pooler, postgresql
from sqlalchemy_outbox.database.server import database_identity
from sqlalchemy_outbox.database.transaction import Source
from sqlalchemy_outbox.waking.wake_event import WakeEvent

log = logging.getLogger(__name__)

# How long an engine's way serves in place of a listener's own, before that is tried again.
_AWAY = timedelta(seconds=30)
# Bytes of the self-pipe read at once; what is left ends the next wait, which costs a claim that finds nothing.
_WAKES_MAX = 4096


@dataclass(frozen=True, slots=True)
class _Subscription:
    """What a listener waits on: the connection, the driver's beneath it, and a self-pipe for the wake event."""

    connection: Connection
    driver: psycopg.Connection[Any]
    wake_receiver: socket.socket
    wake_sender: socket.socket

    def wake(self) -> None:
        # A full buffer wakes as well; a closed one has nobody waiting.
        with suppress(OSError):
            self.wake_sender.send(b"\0")

    def close(self) -> None:
        self.wake_receiver.close()
        self.wake_sender.close()
        _close(self.connection, self.driver)


class Listener:
    """Listens to one channel for a worker with this wake event; used by one thread at a time.

    Where its engine is not the worker's, which is then `beside`, both must lead to one server.
    """

    def __init__(self, engine: Engine, channel: str, wake_event: WakeEvent, beside: Engine | None = None) -> None:
        self._engine, self._beside = engine, beside
        self._listen = sql.SQL("LISTEN {}").format(sql.Identifier(channel)).as_bytes()
        self._wake_event = wake_event
        self._thread = ThreadPoolExecutor(1, "outbox-listener")
        self._subscription: _Subscription | None = None
        self._is_notified = False
        self._has_warned = False
        self._has_told_of_absence = False
        # Whether what fails now is a way's own that has not served yet, and until when it is not tried.
        self._is_suspect = False
        self._away_until = float("-inf")

    @property
    def is_away(self) -> bool:
        """Whether the worker's engine is to serve in its place."""
        return time.monotonic() < self._away_until

    def give_way(self, error: Exception) -> bool:
        """Whether it is away from now on, because of what failed by it."""
        if self._is_suspect:
            self._away_until = time.monotonic() + _AWAY.total_seconds()
            self._tell_of_absence(error)
        return self._is_suspect

    def source(self, longest: timedelta) -> Source:
        """The connection after such a wait, in a thread of our own: no other work is to wait for it."""
        return Source(partial(self.connection, longest), self._thread, self._wake_event.set)

    @contextmanager
    def connection(self, longest: timedelta) -> Iterator[Connection]:
        """Lend the connection once a notification arrives or the wake event is set, or after `longest`.

        One that was lost is replaced, and lent at once, since nobody told of what was committed before it listened. One
        on which something fails is given up.
        """
        if self._subscription is None or not self._wait(self._subscription, longest):
            self._disconnect()
            self._subscription = self._connect()
        try:
            yield self._subscription.connection
        except BaseException:
            self._disconnect()
            raise
        self._is_suspect = self._has_told_of_absence = False

    def close(self) -> None:
        self._thread.shutdown()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            subscription.close()

    def _connect(self) -> _Subscription:
        self._is_suspect = False
        # Raises where the database itself is away.
        identity = None if self._beside is None else _identity(self._beside)
        self._is_suspect = self._beside is not None
        try:
            connection, driver = self._connect_to(self._listen, identity)
        except OperationalError as error:
            if not isinstance(error.orig, postgresql.Refused):
                raise
            # The poll finds the events.
            self._warn_once(str(error.orig))
            connection, driver = self._connect_to(b"SELECT 1", identity)
        try:
            wake_receiver, wake_sender = socket.socketpair()
        except OSError:
            _close(connection, driver)
            raise
        wake_receiver.setblocking(False)
        wake_sender.setblocking(False)
        return _Subscription(connection, driver, wake_receiver, wake_sender)

    def _connect_to(
        self, statement: bytes, identity: tuple[object, ...] | None
    ) -> tuple[Connection, psycopg.Connection[Any]]:
        """A new connection of our own, on which the statement was carried out, to the server of this identity."""
        connection = self._engine.connect()
        # Held for as long as the worker runs, it must not be one of those that the pool has for requests.
        connection.detach()
        driver: Any = connection.connection.dbapi_connection
        driver.add_notify_handler(self._on_notification)
        try:
            if identity is not None and _identity_by(connection) != identity:
                raise psycopg.OperationalError("it leads to another database, another server or a standby")
            if pooler.is_pooled(connection):
                # Another client's session would receive the notifications.
                self._warn_once("a pooler lies before it, which passes no notifications on")
                pooler.prepare_nothing(driver)
                statement = b"SELECT 1"
            postgresql.ask(driver, statement, postgresql.PING_DEADLINE)
        except psycopg.Error as error:
            _close(connection, driver)
            raise OperationalError(statement.decode(), None, error) from error
        return connection, driver

    def _warn_once(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "The database does not tell of other processes' commits (%s): the worker's poll finds their events. "
                "A direct URL to listen by (DATABASE_LISTEN_URL) ends that.",
                reason,
            )

    def _tell_of_absence(self, error: Exception) -> None:
        if not self._has_told_of_absence:
            self._has_told_of_absence = True
            cause = error.orig if isinstance(error, DBAPIError) else error
            log.warning(
                "The way to listen by does not serve (%s): the worker claims by its other way, and its poll finds the "
                "events of other processes. See DATABASE_LISTEN_URL, or the worker's listen_engine.",
                str(cause).splitlines()[0][:200],
            )

    def _wait(self, subscription: _Subscription, longest: timedelta) -> bool:
        """Wait until there may be something to claim; false when the connection is found to be lost."""
        if longest <= timedelta(0):
            return True
        try:
            with self._wake_event.waking(subscription.wake), selectors.DefaultSelector() as selector:
                selector.register(subscription.wake_receiver, selectors.EVENT_READ)
                selector.register(subscription.driver, selectors.EVENT_READ)
                if self._take_notifications(subscription.driver):
                    return True
                ready = [key.fileobj for key, _ in selector.select(longest.total_seconds())]
                if subscription.wake_receiver in ready:
                    subscription.wake_receiver.recv(_WAKES_MAX)
                elif not ready:
                    # A connection that lost its other end silently receives nothing either.
                    postgresql.ask(subscription.driver, b"SELECT 1", postgresql.PING_DEADLINE)
                self._take_notifications(subscription.driver)
        except psycopg.OperationalError:
            return False
        return True

    def _take_notifications(self, driver: psycopg.Connection[Any]) -> bool:
        """Whether a notification has arrived since the last call."""
        driver.pgconn.consume_input()
        while driver.pgconn.notifies() is not None:
            self._is_notified = True
        is_notified, self._is_notified = self._is_notified, False
        return is_notified

    def _on_notification(self, _: psycopg.Notify) -> None:
        """Note a notification that arrived with the answer to a statement."""
        self._is_notified = True


def _identity(engine: Engine) -> tuple[object, ...]:
    with engine.connect() as connection:
        return _identity_by(connection)


def _identity_by(connection: Connection) -> tuple[object, ...]:
    with connection.begin():
        return database_identity(connection)


def _close(connection: Connection, driver: psycopg.Connection[Any]) -> None:
    # First the driver's, past the pool, which would ask a server that is gone to roll back.
    driver.close()
    connection.invalidate()
    connection.close()
