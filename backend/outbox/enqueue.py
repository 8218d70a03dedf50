"""Events enter the outbox with the caller's transaction: buffered by the session, written once at its commit.

    track_event ─▶ buffer of the session ─▶ before_commit: one savepoint, one INSERT ─▶ COMMIT ─▶ wake-up
                        └─ rolled back, to a savepoint or whole: dropped

A failure of the write leaves the caller's transaction committable, and is counted and logged: the outbox must never
break a request. Where the connection or the transaction itself is gone, the failure is the request's own.
"""

from __future__ import annotations

import logging
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from prometheus_client import Counter
from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from outbox import insertion, wakeup
from outbox.model import Outbox
from outbox.payload import encode_payload, storable
from outbox.reason import reason_of
from outbox.tracing import current_traceparent

AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]

log = logging.getLogger(__name__)

EVENTS_LOST = Counter("outbox_events_lost", "Events whose transaction committed without them.")
EVENTS_ENQUEUED = Counter(
    "outbox_events_enqueued",
    "Events that exist because their transaction committed; those that can never be delivered as event_type "
    '"undeliverable".',
    ["outbox", "event_type"],
)

# A longer subject would not fit PostgreSQL's index; ours are ids.
SUBJECT_CHARS_MAX = 255
_TYPE_CHARS_MAX = 255
_BUFFER = "outbox.buffer"


@dataclass(frozen=True, slots=True)
class _Buffered:
    outbox: Outbox
    transaction: SessionTransaction
    row: insertion.Row


@dataclass(slots=True)
class _Written:
    """What the transaction has written to one outbox: how many events of each type."""

    engine: Engine
    counts: Counts[str] = field(default_factory=Counts)


@dataclass(slots=True)
class _Buffer:
    """What a session has enqueued and not yet written."""

    events: list[_Buffered] = field(default_factory=list)
    written: dict[Outbox, _Written] = field(default_factory=dict)
    is_committing: bool = False
    is_rolled_back: bool = False

    def drop(self, transaction: SessionTransaction) -> None:
        self.events = [it for it in self.events if transaction not in _with_ancestors(it.transaction)]


def enqueue(
    session: AnySession,
    outbox: Outbox,
    event_type: str,
    subject: str | None,
    payload: object,
    *,
    error: str | None = None,
    event_id: UUID | None = None,
) -> UUID:
    """Add an event to the caller's transaction; it exists if and only if that commits.

    Returns the event's id and means "buffered": nothing is flushed, written or awaited here. An event that can never
    be delivered (`error`, or a payload that is no JSON object) is stored as failed with the reason. Without a subject
    it is a subject of its own.
    """
    event_id = event_id or uuid4()
    text, unreadable = encode_payload(payload)
    if subject is None or not 0 < len(subject) <= SUBJECT_CHARS_MAX:
        error = error or f"subject must have 1 to {SUBJECT_CHARS_MAX} characters"
        subject = str(event_id)
    error = storable(unreadable or error or "") or None
    row = insertion.Row(
        event_id=str(event_id),
        event_type=storable(event_type[:_TYPE_CHARS_MAX]),
        subject=storable(subject),
        payload=text,
        error=error,
        failure_reason=error and reason_of(error),
        traceparent=current_traceparent(),
    )
    session_ = _sync_session(session)
    transaction = _innermost_transaction(session_)
    _buffer(session_).events.append(_Buffered(outbox, transaction, row))
    return event_id


def lose(event_id: UUID | str, event_type: str, subject: str | None, error: BaseException) -> None:
    """Count and log an event that its committed transaction will not have."""
    EVENTS_LOST.inc()
    log.error(
        "Event %s (%s of %s) is lost: %s. Its transaction committed without it.",
        *(event_id, event_type, subject, _reason(error)),
        extra={"event_id": str(event_id), "event_type": event_type, "subject": subject},
    )


def _reason(error: BaseException) -> str:
    # A driver's message can quote the row, and so a person's address; its first line names the trouble.
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _sync_session(session: AnySession) -> Session:
    match session:
        case scoped_session() | async_scoped_session():
            return _sync_session(session())
        case AsyncSession():
            return session.sync_session
        case _:
            return session


def _innermost_transaction(session: Session) -> SessionTransaction:
    # Begun here when there is none, or a rollback() or close() right after would fire no hook and leave a ghost.
    return session.get_nested_transaction() or session.get_transaction() or session.begin()


def _with_ancestors(transaction: SessionTransaction | None) -> Iterator[SessionTransaction]:
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


def _buffer(session: Session) -> _Buffer:
    buffer = session.info.setdefault(_BUFFER, _Buffer())
    assert isinstance(buffer, _Buffer)
    return buffer


def _write(session: Session, buffer: _Buffer) -> None:
    while buffer.events:
        outbox = buffer.events[0].outbox
        rows = [it.row for it in buffer.events if it.outbox is outbox]
        buffer.events = [it for it in buffer.events if it.outbox is not outbox]
        connection = session.connection(bind_arguments={"clause": outbox.events})
        if _write_rows(connection, outbox, rows):
            written = buffer.written.setdefault(outbox, _Written(connection.engine))
            # A type that nothing knows may be any text, and each would be a series of its own.
            written.counts.update("undeliverable" if it.error else it.event_type for it in rows)


def _write_rows(connection: Connection, outbox: Outbox, rows: list[insertion.Row]) -> bool:
    savepoint = insertion.open_savepoint(connection)
    try:
        savepoint.insert(outbox, rows)
    except Exception as error:  # noqa: BLE001  # Whatever it is, HubSpot must never break a request.
        # Raises when the connection or the transaction is gone, and then the request itself has failed.
        savepoint.roll_back()
        for row in rows:
            lose(row.event_id, row.event_type, row.subject, error)
        return False
    return True


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return
    session.flush()  # Its listeners may track events too.
    if (buffer := session.info.get(_BUFFER)) is not None:
        buffer.is_committing = True
        _write(session, buffer)


@event.listens_for(Session, "after_flush_postexec")
def _after_flush(session: Session, _context: object) -> None:
    # Other hooks of the commit may have added objects whose flush tracked an event.
    if (buffer := session.info.get(_BUFFER)) is not None and buffer.is_committing:
        _write(session, buffer)


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    if (buffer := session.info.get(_BUFFER)) is None or session.in_nested_transaction():
        return
    for outbox, written in buffer.written.items():
        wakeup.wake(written.engine, outbox)
        # Where several processes are counted together, counters are files.
        with suppress(OSError):
            for event_type, count in written.counts.items():
                EVENTS_ENQUEUED.labels(outbox.name, event_type).inc(count)


@event.listens_for(Session, "after_rollback")
def _after_rollback(session: Session) -> None:
    if (buffer := session.info.get(_BUFFER)) is not None and not session.in_nested_transaction():
        buffer.is_rolled_back = True


@event.listens_for(Session, "after_soft_rollback")
def _after_soft_rollback(session: Session, previous: SessionTransaction) -> None:
    if (buffer := session.info.get(_BUFFER)) is not None:
        buffer.drop(previous)


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is not None or (buffer := session.info.pop(_BUFFER, None)) is None:
        return
    if buffer.is_rolled_back:
        return
    for it in buffer.events:
        log.error(
            "Session ended with event %s (%s of %s) buffered and neither committed nor rolled back; it does not exist.",
            *(it.row.event_id, it.row.event_type, it.row.subject),
            extra={"event_id": it.row.event_id, "event_type": it.row.event_type, "subject": it.row.subject},
        )
