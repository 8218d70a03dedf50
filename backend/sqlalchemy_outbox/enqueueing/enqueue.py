"""Events enter the outbox with the caller's transaction: buffered, and written once at its commit.

    track_event ─▶ level of the session (sessions.py) ─▶ buffer of the database transaction (commits.py) ─▶ COMMIT
                └─ a Connection has no levels ─────────▶┘

A failure of the write leaves the caller's transaction committable, and is counted and logged: the outbox must never
break a request. Where the connection or the transaction itself is gone, the failure is the request's own.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from sqlalchemy_outbox.enqueueing import commits, insertion, sessions
from sqlalchemy_outbox.enqueueing.commits import Entry
from sqlalchemy_outbox.enqueueing.losses import EVENTS_LOST, as_type
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.payload import encode_payload, storable
from sqlalchemy_outbox.reason import reason_of
from sqlalchemy_outbox.tracing import current_traceparent

__all__ = ["EVENTS_LOST", "SUBJECT_CHARS_MAX", "AnySession", "enqueue"]

AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any] | Connection | AsyncConnection

# A longer subject would not fit PostgreSQL's index; ours are ids.
SUBJECT_CHARS_MAX = 255
_TYPE_CHARS_MAX = 255


def enqueue(
    session: AnySession,
    outbox: Outbox,
    event_type: object,
    subject: str | None,
    payload: object,
    *,
    error: str | None = None,
    event_id: UUID | None = None,
) -> UUID:
    """Add an event to the caller's transaction; it exists if and only if that commits.

    Takes a session or a connection, sync or async. Returns the event's id and means "buffered": nothing is flushed,
    written or awaited here. An event that can never be delivered (`error`, or a payload that is no JSON object) is
    stored as failed with the reason. Without a subject it is a subject of its own. Raises TypeError, which names the
    remedy, where the event could not share the fate of the caller's rows.
    """
    event_id = event_id or uuid4()
    row = _row(outbox, event_id, event_type, subject, payload, error)
    append(session, Entry(outbox, row))
    return event_id


def _row(
    outbox: Outbox, event_id: UUID, event_type: object, subject: str | None, payload: object, error: str | None
) -> insertion.Row:
    text, unreadable = encode_payload(payload)
    if subject is None or not 0 < len(subject) <= SUBJECT_CHARS_MAX:
        error = error or f"subject must have 1 to {SUBJECT_CHARS_MAX} characters"
        subject = str(event_id)
    if not isinstance(event_type, str):
        error = error or f"event type must be text, not {as_type(event_type)}"
    error = storable(unreadable or error or "") or None
    return insertion.Row(
        event_id=str(event_id),
        event_type=storable(as_type(event_type)[:_TYPE_CHARS_MAX]),
        subject=storable(subject),
        payload=text,
        error=error,
        failure_reason=error and reason_of(error),
        traceparent=current_traceparent(),
        name=outbox.names.of(subject),
    )


def append(session: AnySession, entry: Entry) -> None:
    """Have the session's transaction write the event. TypeError where it could not share that one's fate."""
    match session:
        case Session():
            sessions.append(session, entry)
        case AsyncSession():
            sessions.append(session.sync_session, entry)
        case scoped_session():
            append(session(), entry)
        case async_scoped_session():
            append(session(), entry)
            # Of the scope that is SQLAlchemy's example. Its registry keeps the session when the task is gone.
            if isinstance(scope := session.registry.scopefunc(), asyncio.Task):
                sessions.watch(session().sync_session, scope)
        case Connection():
            _append_to_connection(session, entry)
        case AsyncConnection():
            _append_to_connection(_started(session), entry)
        case _:
            raise TypeError(
                f"An event cannot be enqueued on a {type(session).__name__}; pass the Session, AsyncSession, "
                "Connection or AsyncConnection that writes the rows which the event tells of."
            )


def _started(connection: AsyncConnection) -> Connection:
    if (sync_connection := connection.sync_connection) is None:
        raise TypeError("An event cannot be enqueued on an AsyncConnection that is not started; await it first.")
    return sync_connection


def _append_to_connection(connection: Connection, entry: Entry) -> None:
    commits.refuse_where_nothing_is_atomic(connection)
    commits.refuse_prepared(connection)
    commits.begin_if_needed(connection)
    # Once more: of some drivers it is seen only now.
    commits.refuse_where_nothing_is_atomic(connection)
    commits.append(connection, entry)
