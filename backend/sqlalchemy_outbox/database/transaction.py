"""A worker's transactions: each in a thread, and none longer than its deadline, whatever becomes of the database.

A thread that waits for an answer that never comes is freed by shutting down the socket beneath it; it then gets the
error of a lost connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from sqlalchemy_outbox.database.read_only import is_read_only, replace_at_next_use

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

# Half a lease: a worker whose renewal was cut off has the time for another one.
DEADLINE = timedelta(seconds=10)
# Those that lend out their socket.
_DRIVERS = {"psycopg", "psycopg2"}
_SOCKET = "outbox.socket"
# Threads of our own: the loop's look up addresses too, and all wait where a name server does not answer. A lease must
# be renewed meanwhile.
_threads = ThreadPoolExecutor(32, "outbox")
# SQLite has one writer at a time, and one that waits for another sleeps between its tries: here they queue instead.
_sqlite_thread = ThreadPoolExecutor(1, "outbox-sqlite")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a transaction gets its connection, and its thread. To connect may be a wait, which `interrupt` ends."""

    connect: Callable[[], AbstractContextManager[Connection]]
    threads: Executor
    interrupt: Callable[[], None] = lambda: None


def _pool_of(engine: Engine) -> Source:
    return Source(engine.connect, _sqlite_thread if engine.dialect.name == "sqlite" else _threads)


async def transact(
    engine: Engine, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Carry out `work` in a transaction of its own, in a thread, and return what it returned.

    When it takes longer than DEADLINE, its connection is cut off, which raises DBAPIError. Cancelled, it is awaited
    all the same: afterwards no thread has a connection of an engine that may be disposed of.
    """
    return await transact_while(engine, lambda connection: work(connection, *args, **kwargs), lambda _: False)


async def transact_while(
    engine: Engine,
    work: Callable[[Connection], T],
    is_to_go_on: Callable[[T], bool],
    source: Source | None = None,
) -> T:
    """Like `transact`, again and again on one connection for as long as `is_to_go_on`; returns the last result.

    It is asked in the same thread after each commit, about what `work` returned. `source` is the engine's pool unless
    another is given, of connections of the same engine.
    """
    source = source or _pool_of(engine)
    watchdog = _Watchdog(DEADLINE)

    def in_transactions() -> T:
        with _machine_errors_as_databases(), source.connect() as connection:
            while True:
                with watchdog.guarding(connection), _giving_up_read_only(connection), connection.begin():
                    returned = work(connection)
                if not is_to_go_on(returned):
                    return returned

    loop = asyncio.get_running_loop()
    with _machine_errors_as_databases():
        thread = loop.run_in_executor(source.threads, copy_context().run, in_transactions)
    watchdog.watch(loop)
    thread.add_done_callback(watchdog.unwatch)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        source.interrupt()
        await _end_of(thread)
        raise


@contextmanager
def _machine_errors_as_databases() -> Iterator[None]:
    """A machine may have no file, socket or thread left for a moment, which passes as a database's absence does."""
    try:
        yield
    except OSError as error:
        raise OperationalError("reach the database", None, error) from error
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise OperationalError("reach the database", None, error) from error


@contextmanager
def _giving_up_read_only(connection: Connection) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if is_read_only(error) and not connection.invalidated:
            replace_at_next_use(connection)
        raise


async def _end_of(thread: asyncio.Future[Any]) -> None:
    """However often cancelled: the timer that cuts its connection off runs in this loop."""
    while not thread.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([thread])


def for_single_statements(engine: Engine) -> Engine:
    """The same engine without a transaction around each statement: two round trips fewer on PostgreSQL.

    SQLite claims by several statements, and has no round trips.
    """
    return engine if engine.dialect.name == "sqlite" else engine.execution_options(isolation_level="AUTOCOMMIT")


class _Watchdog:
    """Cuts a connection off whose server does not answer in time, while a thread waits on it."""

    def __init__(self, deadline: timedelta) -> None:
        self._seconds = deadline.total_seconds()
        self._lock = threading.Lock()
        # The driver's connection, and the inode of its socket.
        self._held: tuple[Any, int] | None = None
        self._ends_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def guarding(self, connection: Connection) -> Iterator[None]:
        """Guard it meanwhile. Its time begins now: the wait for a connection has the pool's own deadline."""
        if connection.dialect.driver not in _DRIVERS:
            yield
            return
        driver_connection: Any = connection.connection.dbapi_connection
        # Once for each connection: a call into the system costs this thread its turn among the others.
        if (inode := connection.info.get(_SOCKET)) is None:
            inode = connection.info[_SOCKET] = os.fstat(driver_connection.fileno()).st_ino
        self._held, self._ends_at = (driver_connection, inode), time.monotonic() + self._seconds
        try:
            yield
        finally:
            with self._lock:
                self._held = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cut it off when its time is up."""
        ends_at = self._ends_at
        seconds = self._seconds if ends_at is None else ends_at - time.monotonic()
        if seconds > 0:
            self._timer = loop.call_later(seconds, self.watch, loop)
        else:
            self._cut()

    def unwatch(self, _: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self) -> None:
        with self._lock, suppress(OSError):
            if self._held is None or self._held[0].closed:
                return
            driver_connection, inode = self._held
            log.warning("The database did not answer for %g s; its connection is given up.", self._seconds)
            with socket.socket(fileno=os.dup(driver_connection.fileno())) as wire:
                # The driver may have closed its socket just now, and the number may be another one's.
                if os.fstat(wire.fileno()).st_ino == inode:
                    wire.shutdown(socket.SHUT_RDWR)
