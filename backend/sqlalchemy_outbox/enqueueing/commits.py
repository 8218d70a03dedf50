"""What a database transaction writes to its outboxes: buffered, written just before COMMIT, told of just after.

    append ─▶ buffer of the RootTransaction ─ commit() ─▶ one savepoint, one INSERT ─▶ COMMIT ─▶ wake-up, counters
                  ├─ a savepoint is rolled back: what came after it is dropped
                  └─ the whole is rolled back, or closed: all is dropped

SQLAlchemy has no event between a transaction's last statement and its COMMIT that could fail the commit cleanly, and
none at all after it. So a transaction that has events is given a subclass of its own class (decision 0015).
"""

from __future__ import annotations

import logging
import sys
from collections import Counter as Counts
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

from prometheus_client import Counter
from sqlalchemy import Connection, Engine, NestedTransaction, RootTransaction, TwoPhaseTransaction
from sqlalchemy.util.concurrency import in_greenlet

from sqlalchemy_outbox.database.isolation import as_sqlalchemys, has_rolled_back, is_autocommit
from sqlalchemy_outbox.database.read_only import is_read_only, replace_at_next_use
from sqlalchemy_outbox.enqueueing import insertion, marks, sequences
from sqlalchemy_outbox.enqueueing.losses import COMMITTED_WITHOUT, log_uncommitted, record_loss
from sqlalchemy_outbox.enqueueing.marks import Mark, NotForgotten
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.waking import wakeup

EVENTS_ENQUEUED = Counter(
    "outbox_events_enqueued",
    "Events that exist because their transaction committed; those that can never be delivered as event_type "
    '"undeliverable".',
    ["outbox", "event_type"],
)

AUTOCOMMIT = (
    "its connection is in AUTOCOMMIT, where no row and event are atomic; enqueue on an engine with another isolation "
    'level, such as engine.execution_options(isolation_level="READ COMMITTED")'
)
TOO_LATE = "it was enqueued too late in the commit"
COMMITTED = (
    "An event cannot be enqueued here: its session has committed already; enqueue before that, at the latest in "
    "before_commit, or in a transaction of its own."
)
PREPARED = (
    "An event cannot be enqueued here: its transaction is prepared already, and takes nothing more; enqueue before "
    "prepare()."
)


@dataclass(slots=True, eq=False)
class Entry:
    """An event that its transaction is to write. With a `mark` it erases its subject, and is never lost in silence."""

    outbox: Outbox
    row: insertion.Row
    mark: Mark | None = None
    is_dropped: bool = False
    is_told: bool = False

    def record_loss(self, reason: str, fate: str) -> None:
        self.is_dropped = self.is_told = True
        if self.mark is not None:
            raise NotForgotten(reason)
        record_loss(self.row.event_id, self.row.event_type, self.row.subject, reason, fate)

    def log_uncommitted(self, level: int, what_happened: str) -> None:
        if not self.is_told:
            self.is_told = True
            log_uncommitted(level, self.row.event_id, self.row.event_type, self.row.subject, what_happened)


@dataclass(slots=True)
class _Buffer:
    entries: list[Entry] = field(default_factory=list)
    # How many entries came before each savepoint that is open.
    savepoints: WeakKeyDictionary[NestedTransaction, int] = field(default_factory=WeakKeyDictionary)
    written: Counts[tuple[Outbox, str]] = field(default_factory=Counts)
    # With why they could not be written.
    unwritten: list[tuple[insertion.Row, str]] = field(default_factory=list)
    is_committing: bool = False

    def drop_from(self, position: int) -> None:
        for entry in self.entries[position:]:
            entry.is_dropped = True
        del self.entries[position:]

    def __del__(self) -> None:
        if not sys.is_finalizing():
            for entry in self.entries:
                entry.log_uncommitted(logging.WARNING, "its connection was dropped in the middle of the transaction")


_buffers: WeakKeyDictionary[RootTransaction, _Buffer] = WeakKeyDictionary()


def refuse_where_nothing_is_atomic(bind: Engine | Connection) -> None:
    """Raise TypeError where an event could not share a row's fate, as far as that can be told without a round trip."""
    if is_autocommit(bind):
        raise TypeError(f"An event cannot be enqueued here: {AUTOCOMMIT}.")


def refuse_prepared(connection: Connection) -> None:
    transaction = connection.get_transaction()
    # SQLAlchemy has no public word for it.
    if isinstance(transaction, TwoPhaseTransaction) and transaction._is_prepared:
        raise TypeError(PREPARED)


def begin_if_needed(connection: Connection) -> None:
    """Begin as the first statement would, or a commit() or rollback() right after would tell nobody. TypeError."""
    if connection.get_transaction() is not None:
        return
    if connection.dialect.is_async and connection.dispatch.begin and not in_greenlet():
        # A listener of `begin` that executes something, as SQLite's do, would have to be awaited.
        raise TypeError(
            "An event cannot be enqueued on an AsyncConnection that is in no transaction, because something listens "
            "to its beginning; use engine.begin(), or await connection.begin() first."
        )
    # Not begin(): that would begin a second one within a listener of the engine's `begin`.
    connection._autobegin()
    if connection.get_transaction() is None:
        raise TypeError(
            "An event cannot be enqueued here: its transaction is just beginning; enqueue once it has begun."
        )


def append(connection: Connection, entry: Entry) -> None:
    """Have the connection's transaction write the event. TypeError where it has none any more."""
    root = connection.get_transaction()
    if root is None:
        raise TypeError(COMMITTED)
    if not root.is_active:
        # A transaction that can only be rolled back.
        entry.is_dropped = True
        return
    if (buffer := _buffers.get(root)) is None:
        buffer = _buffers[root] = _Buffer()
        root.__class__ = _TwoPhase if isinstance(root, TwoPhaseTransaction) else _Root
    _mark_savepoints(buffer, connection.get_nested_transaction())
    buffer.entries.append(entry)
    if buffer.is_committing:
        # By a listener of the engine's commit.
        _write(connection, buffer)


def waiting(connection: Connection) -> list[Entry]:
    """What the connection's transaction is to write when it commits, in order."""
    root = connection.get_transaction()
    buffer = None if root is None else _buffers.get(root)
    return [] if buffer is None else list(buffer.entries)


def _mark_savepoints(buffer: _Buffer, savepoint: NestedTransaction | None) -> None:
    while savepoint is not None and savepoint not in buffer.savepoints:
        savepoint.__class__ = _Savepoint
        buffer.savepoints[savepoint] = len(buffer.entries)
        # SQLAlchemy has no public way from a savepoint to the one around it.
        savepoint = savepoint._previous_nested


# What SQLAlchemy's commit(), rollback() and close() call is overridden, not these themselves: a program may have taken
# one of them, `callback(transaction.commit)` say, before the first event came.


class _Root(RootTransaction):
    """A transaction that has events."""

    __slots__ = ()

    def _connection_commit_impl(self) -> None:
        # One that is prepared has written them.
        if not (isinstance(self, TwoPhaseTransaction) and self._is_prepared):
            _written_or(super()._connection_rollback_impl, partial(_write_last, self))
        super()._connection_commit_impl()
        _settle(self)

    def _connection_rollback_impl(self) -> None:
        try:
            super()._connection_rollback_impl()
        finally:
            _drop(self)


class _TwoPhase(_Root, TwoPhaseTransaction):
    __slots__ = ()

    def prepare(self) -> None:
        _write_last(self)
        super().prepare()


class _Savepoint(NestedTransaction):
    """A savepoint that has, or had, events after it."""

    __slots__ = ()

    def _do_commit(self) -> None:
        # Where Python's sqlite3 has not begun before the savepoint, the release of the outermost commits its rows.
        is_release_a_commit = self.connection.dialect.name == "sqlite" and self._previous_nested is None
        if is_release_a_commit and self.is_active and (buffer := _buffer_of(self)) is not None:
            _written_or(super()._do_rollback, partial(_write, self.connection, buffer))
        super()._do_commit()

    def _do_rollback(self) -> None:
        with _dropping_after(self):
            super()._do_rollback()

    def _do_close(self) -> None:
        with _dropping_after(self):
            super()._do_close()


def _written_or(undo: Callable[[], None], write: Callable[[], None]) -> None:
    """Whoever ignores that the commit failed, or was interrupted, and commits again shall not keep the rows alone."""
    is_written = False
    try:
        write()
        is_written = True
    finally:
        if not is_written:
            undo()


@contextmanager
def _dropping_after(savepoint: NestedTransaction) -> Iterator[None]:
    """Drop what came after the savepoint once it is rolled back: SQLite goes on after a rollback that failed."""
    was_active = savepoint.is_active
    yield
    if was_active and (buffer := _buffer_of(savepoint)) is not None:
        buffer.drop_from(buffer.savepoints.get(savepoint, 0))


def _buffer_of(savepoint: NestedTransaction) -> _Buffer | None:
    root = savepoint.connection.get_transaction()
    return None if root is None else _buffers.get(root)


def _drop(root: RootTransaction) -> None:
    if (buffer := _buffers.pop(root, None)) is not None:
        buffer.drop_from(0)


def _write_last(root: RootTransaction) -> None:
    if root.is_active and (buffer := _buffers.get(root)) is not None:
        _write(root.connection, buffer)
        buffer.is_committing = True


def _write(connection: Connection, buffer: _Buffer) -> None:
    entries, buffer.entries = buffer.entries, []
    buffer.savepoints.clear()
    for outbox in dict.fromkeys(entry.outbox for entry in entries):
        rows = [entry.row for entry in entries if entry.outbox is outbox]
        marked = [(entry.row.event_id, entry.mark) for entry in entries if entry.outbox is outbox and entry.mark]
        if marked:
            marks.write(connection, outbox, marked)
        reason = _write_rows(connection, outbox, rows)
        if reason is not None and marked:
            raise NotForgotten(reason)
        if reason is None:
            # A type that nothing knows may be any text, and each would be a series of its own.
            buffer.written.update((outbox, "undeliverable" if row.error else row.event_type) for row in rows)
        else:
            buffer.unwritten += [(row, reason) for row in rows]


def _write_rows(connection: Connection, outbox: Outbox, rows: list[insertion.Row]) -> str | None:
    """None when they are written; else why not, and the transaction is as it was before."""
    if is_autocommit(connection):
        return AUTOCOMMIT
    way = insertion.Way.CHECKED
    while (refusal := _try_to_write(connection, outbox, rows, way)) is not None:
        if insertion.is_of_forgotten(refusal):
            rows = [row.to_be_looked_up() for row in rows]
            continue
        if any(row.name for row in rows) and insertion.may_not_look(outbox, refusal):
            # The event is worth more here than its refusal, which is a worker's then.
            rows = [row.unnamed() for row in rows]
            continue
        if (another := sequences.another_way(connection, outbox, way, refusal)) is None:
            return sequences.in_words(outbox, refusal)
        way = another
    return None


def _try_to_write(
    connection: Connection, outbox: Outbox, rows: list[insertion.Row], way: insertion.Way
) -> Exception | None:
    """The error that refused it, after which the transaction is as it was before."""
    savepoint = insertion.open_savepoint(connection)
    try:
        savepoint.insert(outbox, rows, way)
    except Exception as error:  # Whatever it is, HubSpot must never break a request.
        if has_rolled_back(error):
            # A deadlock or a serialization failure: the request's own, to be tried again whole.
            raise as_sqlalchemys(connection, error) from error
        # Raises when the connection or the transaction is gone, and then the request itself has failed.
        savepoint.roll_back()
        if is_read_only(error):
            # Its session stays so, whatever becomes of the server.
            replace_at_next_use(connection)
        return error
    return None


def _settle(root: RootTransaction) -> None:
    """The COMMIT has succeeded."""
    if (buffer := _buffers.pop(root, None)) is None:
        return
    for outbox in dict.fromkeys(outbox for outbox, _ in buffer.written):
        wakeup.wake(root.connection.engine, outbox)
    # Where several processes are counted together, counters are files.
    with suppress(OSError):
        for (outbox, event_type), count in buffer.written.items():
            EVENTS_ENQUEUED.labels(outbox.name, event_type).inc(count)
    entries, buffer.entries = buffer.entries, []
    for row, reason in [*buffer.unwritten, *((entry.row, TOO_LATE) for entry in entries)]:
        record_loss(row.event_id, row.event_type, row.subject, reason, COMMITTED_WITHOUT)
