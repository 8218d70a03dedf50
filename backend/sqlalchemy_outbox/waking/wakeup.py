"""A commit wakes the workers at once; the worker's own poll is the net when no wake-up reaches it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.exc import DBAPIError

from sqlalchemy_outbox.database.engines import psycopg_engine_like
from sqlalchemy_outbox.database.server import database_identity
from sqlalchemy_outbox.database.transaction import for_single_statements
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.waking.plain_notifier import PlainNotifier
from sqlalchemy_outbox.waking.wake_event import WakeEvent

if TYPE_CHECKING:
    from sqlalchemy_outbox.waking.listener import Listener
    from sqlalchemy_outbox.waking.notifier import Notifier


log = logging.getLogger(__name__)


_lock = threading.Lock()
_wake_events: defaultdict[Outbox, WeakSet[WakeEvent]] = defaultdict(WeakSet)
# An engine and those that `execution_options` made of it share their dialect, and one notifier.
_notifiers: dict[tuple[Dialect, Outbox], Notifier | PlainNotifier] = {}
# Engines whose disposal ends their notifiers.
_watched: WeakSet[Engine] = WeakSet()


def subscribe(outbox: Outbox, wake_event: WakeEvent) -> None:
    """Set `wake_event` at every commit of this process that enqueued into `outbox`."""
    with _lock:
        _wake_events[outbox].add(wake_event)


@contextmanager
def listening(
    engine: Engine | None, outbox: Outbox, wake_event: WakeEvent, beside: Engine | None = None
) -> Iterator[Listener | None]:
    """A connection to claim by that hears of other processes' commits; None where none can be had.

    Where the engine is not the worker's, that one is `beside`.
    """
    if engine is None:
        yield None
        return
    from sqlalchemy_outbox.waking.listener import Listener  # noqa: PLC0415  # It needs psycopg, which only PostgreSQL's users install.

    listener = Listener(engine, outbox.name, wake_event, beside)
    try:
        yield listener
    finally:
        listener.close()


def engine_to_listen_by(engine: Engine) -> Engine | None:
    """The engine itself on psycopg; else one on psycopg that leads to the same database; None where there is none.

    Raises DBAPIError while the database is away.
    """
    if engine.dialect.driver == "psycopg" or engine.dialect.name != "postgresql":
        return engine if engine.dialect.name == "postgresql" else None
    reason = "psycopg is not installed"
    if (found := psycopg_engine_like(engine)) is not None:
        with engine.connect() as connection:
            identity = database_identity(connection)
        try:
            with found.connect() as connection:
                if database_identity(connection) == identity:
                    return for_single_statements(found)
            reason = "its URL leads psycopg to another database"
        except DBAPIError as error:
            reason = f"its URL alone does not lead psycopg there: {str(error).splitlines()[0][:200]}"
    log.warning(
        "Workers on %s do not hear of other processes' commits (%s): their poll finds the events. Give the worker an "
        "engine on psycopg, as `engine` or as `listen_engine`.",
        engine.dialect.driver,
        reason,
    )
    return None


def tells_of_commits(connection: Connection) -> bool:
    """Whether a worker that listens by such a connection receives other processes' notifications."""
    if connection.dialect.driver != "psycopg":
        return False
    from sqlalchemy_outbox.database.pooler import is_pooled  # noqa: PLC0415  # As above.

    return not is_pooled(connection)


def wake(engine: Engine, outbox: Outbox) -> None:
    """Wake every worker of `outbox`, in this process and in others, for what a commit has just made visible."""
    with _lock:
        wake_events = list(_wake_events[outbox])
    for wake_event in wake_events:
        wake_event.set()
    if engine.dialect.name == "postgresql":
        _notifier(engine, outbox).notify()


def _notifier(engine: Engine, outbox: Outbox) -> Notifier | PlainNotifier:
    with _lock:
        if engine not in _watched:
            _watched.add(engine)
            event.listen(engine, "engine_disposed", _dispose)
        if (notifier := _notifiers.get((engine.dialect, outbox))) is None:
            notifier = _notifiers[engine.dialect, outbox] = _make_notifier(engine, outbox)
        return notifier


def _make_notifier(engine: Engine, outbox: Outbox) -> Notifier | PlainNotifier:
    if engine.dialect.driver != "psycopg" or engine.dialect.is_async:
        return PlainNotifier(engine, outbox.name)
    from sqlalchemy_outbox.waking.notifier import Notifier  # noqa: PLC0415  # As above.

    return Notifier(engine, outbox.name)


def _dispose(engine: Engine) -> None:
    with _lock:
        ended = [_notifiers.pop(key) for key in list(_notifiers) if key[0] is engine.dialect]
    for notifier in ended:
        notifier.close()


def _begin_anew() -> None:
    # A forked child has its parent's connections, but not the threads that use them.
    _notifiers.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    # No other thread is to hold the lock in the child, where nobody would let go of it.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_begin_anew)


@atexit.register
def _dispose_all() -> None:
    # A script's last commit is notified before the script ends.
    for notifier in list(_notifiers.values()):
        notifier.close()
