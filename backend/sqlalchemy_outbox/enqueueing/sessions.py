"""To which database transaction an event of a session belongs: to the one that a row, flushed now, would be part of.

    after_transaction_create ─▶ a level, for the transaction and for each savepoint of the session
    after_begin              ─▶ the level has a connection: its transaction takes the level's events (commits.py)
    before_flush             ─▶ what was left behind goes with the objects that were
    before_commit            ─▶ where events still wait for a connection, the session connects
    after_transaction_end    ─▶ a level that committed hands what still waits to the level around it, others drop it
    after_soft_rollback      ─▶ it was rolled back on purpose, and not only left after a failed flush

A session connects, and sets its savepoints, when the first statement needs them; until then events wait in the level.
A flush that fails rolls a level back while the program is still in it. An object that is added to the session there is
discarded by a rollback(), and flushed with the level around it when the savepoint's context is left without an error.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass, field
from functools import cache, partial
from weakref import ref

from sqlalchemy import Connection, Engine, Update, event, update
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util.concurrency import in_greenlet

from sqlalchemy_outbox.database.isolation import is_autocommit
from sqlalchemy_outbox.enqueueing import commits
from sqlalchemy_outbox.enqueueing.commits import Entry
from sqlalchemy_outbox.enqueueing.losses import COMMITTED_WITHOUT, GOES_ON_WITHOUT
from sqlalchemy_outbox.model import Outbox

_LEVELS = "_outbox_levels"
_Bind = Engine | Connection
_Waiting = list[tuple[_Bind, Entry]]


@dataclass(slots=True, eq=False)
class _Level:
    """A transaction or a savepoint of a session."""

    connections: list[Connection] = field(default_factory=list)
    waiting: _Waiting = field(default_factory=list)
    is_committed: bool = False
    is_rolled_back: bool = False
    # Of the outermost level: whether a commit is under way, whose task it is, and all that was enqueued.
    is_committing: bool = False
    is_watched: bool = False
    entries: list[Entry] = field(default_factory=list)

    def connection_to(self, bind: _Bind) -> Connection | None:
        return next((made for made in self.connections if made is bind or made.engine is bind), None)

    def take(self, bind: _Bind, entry: Entry) -> None:
        if (connection := self.connection_to(bind)) is None:
            self.waiting.append((bind, entry))
        else:
            commits.append(connection, entry)

    def begin(self, connection: Connection) -> None:
        if connection not in self.connections:
            self.connections.append(connection)
        waiting, self.waiting = self.waiting, []
        for bind, entry in waiting:
            if (made := self.connection_to(bind)) is not None and is_autocommit(made):
                # It turns out only now; a rollback would leave the rows.
                entry.record_loss(commits.AUTOCOMMIT, GOES_ON_WITHOUT)
            else:
                self.take(bind, entry)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            for _, entry in self.waiting:
                entry.log_uncommitted(logging.WARNING, "its session was dropped in the middle of the transaction")


class _Levels(dict[SessionTransaction, _Level]):
    """A session's, outermost first; `left` was enqueued in levels that a failed flush had rolled back."""

    __slots__ = ("left", "of")

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.of = ref(session)
        self.left: _Waiting = []

    def take_what_was_left(self) -> None:
        left, self.left = self.left, []
        for bind, entry in left:
            if (connection := _outermost(self).connection_to(bind)) is not None:
                # Its transaction may have ended below the session.
                commits.begin_if_needed(connection)
            _innermost(self).take(bind, entry)


def append(session: Session, entry: Entry) -> None:
    """Have the session's transaction write the event. TypeError where it cannot."""
    bind = _bind(session, entry.outbox)
    transaction = _transaction(session)
    # A copy of a session's attributes, as in SQLAlchemy's example of `using_bind`, has the transaction of the session.
    session = transaction.session
    levels = _levels_with(session, transaction)
    outermost, innermost = _outermost(levels), levels[transaction]
    _refuse_ended(outermost)
    if innermost.is_rolled_back:
        commits.refuse_where_nothing_is_atomic(bind)
        innermost.waiting.append((bind, entry))
        return
    levels.take_what_was_left()
    is_active = transaction.is_active
    if session.twophase and not is_active and not outermost.connections:
        # Prepared before it had any connection.
        raise TypeError(commits.PREPARED)
    if is_active and (connection := outermost.connection_to(bind)) is not None:
        # Its transaction may have ended below the session.
        commits.begin_if_needed(connection)
    commits.refuse_where_nothing_is_atomic(outermost.connection_to(bind) or bind)
    if not is_active and not innermost.is_committed and (connection := outermost.connection_to(bind)) is not None:
        # In after_begin, of which there is one for each savepoint that is being set.
        commits.append(connection, entry)
    else:
        innermost.take(bind, entry)
    outermost.entries.append(entry)
    if is_active and outermost.is_committing:
        _connect(session, levels)


def watch(session: Session, task: asyncio.Task[object]) -> None:
    """Have it said when the task ends, and with it the scope of its session, in the middle of a transaction."""
    outermost = _outermost(levels) if (levels := _levels(session)) else None
    if outermost is not None and not outermost.is_watched:
        outermost.is_watched = True
        task.add_done_callback(partial(_say_left, ref(session), outermost))


def _bind(session: Session, outbox: Outbox) -> _Bind:
    """Where a flush would write the outbox's rows, whatever the session's routes.

    SQLAlchemy's documented routing sessions ask the kind of the statement, and `_flushing`.
    """
    is_flushing, session._flushing = session._flushing, True
    try:
        return session.get_bind(clause=_update_of(outbox))
    except (UnboundExecutionError, AssertionError, LookupError, AttributeError) as error:
        # The latter of a program's own get_bind, or of ShardedSession's, which ask for a mapper.
        raise TypeError(
            f"An event cannot be enqueued here: the session has no engine for the table {outbox.name}; "
            "pass one in Session(binds={outbox.events: engine}), the engine of the rows that the events tell of, or "
            "enqueue on the rows' own session.connection(…)."
        ) from error
    finally:
        session._flushing = is_flushing


@cache
def _update_of(outbox: Outbox) -> Update:
    return update(outbox.events)


def _levels(session: Session) -> _Levels:
    # They are garbage with it. Its `info` would be no place: a program may hand that on to another session, and also,
    # as SQLAlchemy's example of `using_bind` does, all its attributes.
    levels: _Levels | None = vars(session).get(_LEVELS)
    if levels is None or levels.of() is not session:
        levels = vars(session)[_LEVELS] = _Levels(session)
    return levels


def _outermost(levels: _Levels) -> _Level:
    return next(iter(levels.values()))


def _innermost(levels: _Levels) -> _Level:
    return next(reversed(levels.values()))


def _transaction(session: Session) -> SessionTransaction:
    """The innermost one, begun here when there is none, or a rollback() or close() right after would tell nobody."""
    if (transaction := session.get_nested_transaction() or session.get_transaction()) is not None:
        return transaction
    if not session.autobegin:
        raise TypeError(
            "An event cannot be enqueued here: its session is in no transaction and has autobegin=False; enqueue after "
            "session.begin()."
        )
    return session.begin()


def _levels_with(session: Session, transaction: SessionTransaction) -> _Levels:
    levels = _levels(session)
    if transaction not in levels:
        # Begun before this module was imported; or a listener is told of its beginning before this module is.
        for around in reversed(_with_those_around(transaction)):
            levels.setdefault(around, _Level())
    return levels


def _with_those_around(transaction: SessionTransaction | None) -> list[SessionTransaction]:
    found = []
    while transaction is not None:
        if transaction.nested or transaction.parent is None:
            found.append(transaction)
        transaction = transaction.parent
    return found


def _refuse_ended(outermost: _Level) -> None:
    if outermost.is_committed:
        raise TypeError(commits.COMMITTED)
    for connection in outermost.connections:
        commits.refuse_prepared(connection)


def _connect(session: Session, levels: _Levels) -> None:
    """Begin on every bind that events wait for; not where only a savepoint's wait, that hands them on."""
    outermost = _outermost(levels)
    while binds := [
        bind for level in levels.values() for bind, _ in level.waiting if outermost.connection_to(bind) is None
    ]:
        if binds[0].dialect.is_async and not in_greenlet():
            return
        outermost.begin(session.connection(bind_arguments={"bind": binds[0]}))


# First of all listeners: what others enqueue meets levels that are as the session is.


@event.listens_for(Session, "after_transaction_create", insert=True)
def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested or transaction.parent is None:
        _levels(session).setdefault(transaction, _Level())


@event.listens_for(Session, "after_begin", insert=True)
def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if (level := _levels(session).get(transaction)) is not None:
        level.begin(connection)


@event.listens_for(Session, "before_flush", insert=True)
def _before_flush(session: Session, _context: object, _objects: object) -> None:
    if (levels := _levels(session)) and not _innermost(levels).is_rolled_back:
        levels.take_what_was_left()


@event.listens_for(Session, "before_commit", insert=True)
def _before_commit(session: Session) -> None:
    # Also where only a savepoint is released: it cannot be told from a commit of the whole that releases it.
    if levels := _levels(session):
        _outermost(levels).is_committing = True
        levels.take_what_was_left()
        _connect(session, levels)


@event.listens_for(Session, "after_commit", insert=True)
def _after_commit(session: Session) -> None:
    if levels := _levels(session):
        _innermost(levels).is_committed = True


@event.listens_for(Session, "after_rollback", insert=True)
def _after_rollback(session: Session) -> None:
    if levels := _levels(session):
        _innermost(levels).is_rolled_back = True


@event.listens_for(Session, "after_transaction_end", insert=True)
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    levels = _levels(session)
    if (level := levels.pop(transaction, None)) is None:
        return
    for inner in [other for other in levels if transaction in _with_those_around(other)]:
        # close() ends it alone, and leaves what is within it without a connection.
        _drop(levels.pop(inner).waiting)
    waiting, level.waiting = level.waiting, []
    if not levels:
        _end(session, level, waiting)
    elif level.is_committed:
        for bind, entry in waiting:
            _innermost(levels).take(bind, entry)
        if _outermost(levels).is_committing:
            _connect(session, levels)
    else:
        _leave_or_drop(session, level, waiting)


@event.listens_for(Session, "after_soft_rollback", insert=True)
def _after_soft_rollback(session: Session, _: SessionTransaction) -> None:
    # The session has discarded what was not flushed.
    _drop(_levels(session).left)


def _end(session: Session, outermost: _Level, waiting: _Waiting) -> None:
    if outermost.is_committed:
        for _, entry in waiting:
            entry.record_loss(commits.TOO_LATE, COMMITTED_WITHOUT)
        return
    _leave_or_drop(session, outermost, waiting)
    if not outermost.is_rolled_back:
        _say_closed([entry for entry in outermost.entries if entry.is_dropped])


def _leave_or_drop(session: Session, level: _Level, waiting: _Waiting) -> None:
    if level.is_rolled_back and (session.new or session.dirty or session.deleted):
        _levels(session).left.extend(waiting)
    else:
        _drop(waiting)


def _drop(waiting: _Waiting) -> None:
    for _, entry in waiting:
        entry.is_dropped = True
    waiting.clear()


def _say_closed(entries: list[Entry]) -> None:
    # A request that fails ends so, and that is its own affair. A greenlet cannot see whether its caller is failing.
    is_failing = sys.exc_info()[0] is not None or in_greenlet()
    for entry in entries:
        entry.log_uncommitted(
            logging.INFO if is_failing else logging.WARNING, "its session was closed without a commit"
        )


def _say_left(session_: ref[Session], outermost: _Level, _task: object) -> None:
    if (session := session_()) is not None and outermost in _levels(session).values():
        for entry in outermost.entries:
            if not entry.is_dropped:
                entry.log_uncommitted(
                    logging.WARNING, "the task whose session it is ended in the middle of the transaction"
                )
