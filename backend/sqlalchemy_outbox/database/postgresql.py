"""PostgreSQL as an outbox needs it: a connection whose other end is gone is given up in seconds.

    no packet is acknowledged (the host or the way to it is gone)  keepalives, tcp_user_timeout
    packets are acknowledged, no answer comes (a frozen server,    only a deadline of our own: `ask` for pings and
    a proxy before one)                                            notifications, `transaction` for the worker

Of the second kind TCP knows nothing, and libpq has no deadline for a statement: one of another part of the application
that is under way when its server freezes waits for as long as that lasts.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import pq
from sqlalchemy import URL, Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

# Half a lease, so that a worker which loses a connection can renew what it holds by another.
SILENCE_MAX = timedelta(seconds=10)
_CONNECT_TIMEOUT = timedelta(seconds=5)
PING_DEADLINE = timedelta(seconds=5)
_MS = timedelta(milliseconds=1)
_SECOND = timedelta(seconds=1)

_CONNECT_ARGUMENTS: Mapping[str, int] = {
    "connect_timeout": _CONNECT_TIMEOUT // _SECOND,
    "keepalives": 1,
    # Where the system knows it, tcp_user_timeout decides how long unanswered ones are borne.
    "keepalives_idle": SILENCE_MAX // _SECOND // 2,
    "keepalives_interval": SILENCE_MAX // _SECOND // 2,
    "keepalives_count": 2,
    "tcp_user_timeout": SILENCE_MAX // _MS,
}
# The server lets go of what a client locked that froze, or vanished, in the middle of a transaction: the gate's row
# would stop every worker.
SETTINGS: Mapping[str, int] = {"idle_in_transaction_session_timeout": SILENCE_MAX // _MS}

_FRESH = "outbox.fresh"


class Refused(psycopg.OperationalError):
    """The server's answer to what it was asked is an error, and the connection goes on."""

    def __init__(self, words: str, sqlstate: str) -> None:
        super().__init__(words)
        self.sqlstate = sqlstate


_ANSWERS = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}


def connect_arguments(url: URL) -> dict[str, Any]:
    """What to connect with besides the URL, for as long as that does not say otherwise; the server is told nothing."""
    arguments: dict[str, Any] = {name: value for name, value in _CONNECT_ARGUMENTS.items() if name not in url.query}
    # psycopg compares it with numbers, and a URL has texts only.
    if isinstance(text := url.query.get("prepare_threshold"), str):
        arguments["prepare_threshold"] = int(text) if text.isdecimal() else None
    return arguments


def ping_at_checkout(engine: Engine) -> None:
    """Replace a pooled connection that does not answer; what `pool_pre_ping` does, with a deadline."""
    event.listen(engine, "connect", _note_as_fresh)
    event.listen(engine, "checkout", _ping)


def ask(connection: psycopg.Connection[Any], statement: bytes, deadline: timedelta) -> str:
    """Have an idle connection's server carry out a statement in time, or close the connection: OperationalError.

    Returns the first value of its answer; empty where there is none.
    Raises Refused when the server says no.
    """
    try:
        connection.pgconn.send_query(statement)
        connection.pgconn.flush()
    except psycopg.OperationalError:
        connection.close()
        raise
    return await_answer(connection, deadline)


def await_answer(connection: psycopg.Connection[Any], deadline: timedelta) -> str:
    """Have the server answer in time what it was sent, or close the connection: OperationalError. Or raise Refused."""
    try:
        return _read_answer(connection, time.monotonic() + deadline.total_seconds())
    except Refused:
        raise
    except psycopg.OperationalError:
        # Left open, it would be asked to roll back as it is given up, and wait for that.
        connection.close()
        raise
    except OSError as error:
        connection.close()
        raise psycopg.OperationalError(f"the answer cannot be waited for: {error}") from error


def _read_answer(connection: psycopg.Connection[Any], ends_at: float) -> str:
    pgconn, value = connection.pgconn, ""
    refusal: Refused | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            if not pgconn.is_busy():
                if (answer := pgconn.get_result()) is None:
                    if refusal is not None:
                        raise refusal
                    return value
                if answer.status not in _ANSWERS:
                    is_refusal = answer.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"ERROR"
                    words = answer.error_message.decode(errors="replace")
                    if is_refusal:
                        refusal = Refused(words, (answer.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode())
                        continue
                    raise psycopg.OperationalError(words)
                if answer.ntuples:
                    value = (answer.get_value(0, 0) or b"").decode(errors="replace")
            elif selector.select(max(0.0, ends_at - time.monotonic())):
                pgconn.consume_input()
            else:
                raise psycopg.OperationalError("the server did not answer in time")


def _note_as_fresh(_connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    entry.info[_FRESH] = True


def _ping(connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    if entry.info.pop(_FRESH, False):
        return
    driver_connection: Any = connection  # psycopg's
    try:
        ask(driver_connection, b"SELECT 1", PING_DEADLINE)
    except psycopg.OperationalError as error:
        raise InvalidatePoolError(str(error)) from error
