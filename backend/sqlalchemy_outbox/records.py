"""What is kept beside the events: the deliveries that carried them, those a person discarded, and what people did.

None of these tables refers to the events' table by a constraint: an event may be gone before what is told of it, and
a worker that records a delivery should not wait for whoever has the event locked.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

from sqlalchemy_outbox.clock import Instant
from sqlalchemy_outbox.text import AnyText

_ID: TypeEngine[int] = BigInteger().with_variant(Integer, "sqlite")


@dataclass(frozen=True, slots=True)
class Records:
    """`deliveries` are linked to their events by `delivery_events`, and `audit` by `audit_events`.

    `ended_sessions` are those of operators who signed out. `figures` are what happened by minutes and hours, `counted`
    says up to which event they count what was enqueued, and `closures` are the times for which the gate was shut.
    """

    deliveries: Table
    delivery_events: Table
    discarded: Table
    audit: Table
    audit_events: Table
    ended_sessions: Table
    figures: Table
    counted: Table
    closures: Table


def declare_records(metadata: MetaData, events: Table) -> Records:
    """Declare the tables of what is kept beside `events`."""
    name = events.name
    deliveries = Table(
        f"{name}_deliveries",
        metadata,
        Column("id", _ID, Identity(), primary_key=True),
        Column("started_at", Instant, nullable=False),
        Column("duration_ms", Integer, nullable=False),
        Column("endpoint", Text, nullable=False),
        Column("events", Integer, nullable=False),
        # NULL: no answer came.
        Column("status", Integer),
        Column("category", AnyText),
        Column("correlation_id", AnyText),
        Column("outcome", AnyText, nullable=False),
        Column("error", AnyText),
        Column("traceparent", Text),
    )
    Index(f"ix_{name}_deliveries_started", deliveries.c.started_at)
    delivery_events = Table(
        f"{name}_delivery_events",
        metadata,
        Column("event_id", BigInteger, primary_key=True, autoincrement=False),
        Column("delivery_id", BigInteger, primary_key=True, autoincrement=False),
        Column("outcome", AnyText, nullable=False),
    )
    Index(f"ix_{name}_delivery_events_delivery", delivery_events.c.delivery_id)
    ended_sessions = Table(
        f"{name}_ended_sessions",
        metadata,
        Column("session", Text, primary_key=True),
        # It is over by then anyway.
        Column("ends_at", Instant, nullable=False),
    )
    return Records(
        deliveries,
        delivery_events,
        _declare_discarded(metadata, events),
        *_declare_audit(metadata, name),
        ended_sessions,
        *_declare_figures(metadata, name),
        _declare_closures(metadata, name),
    )


def _declare_figures(metadata: MetaData, name: str) -> tuple[Table, Table]:
    def count(column: str) -> Column[int]:
        return Column(column, BigInteger, nullable=False, server_default="0")

    figures = Table(
        f"{name}_figures",
        metadata,
        # The span that it is about: a minute, an hour or a day from `at` on (UTC), in minutes.
        Column("minutes", SmallInteger, primary_key=True, autoincrement=False),
        Column("at", Instant, primary_key=True),
        # Empty for what concerns all types. That row says that a worker lived.
        Column("event_type", AnyText, primary_key=True),
        *map(count, ("enqueued", "delivered", "failed")),
        # Requests, by what they came to.
        *map(count, ("answered", "refused", "throttled", "unanswered")),
        # The highest that was seen.
        Column("lag_seconds", Float, nullable=False, server_default="0"),
        count("waiting"),
    )
    counted = Table(
        f"{name}_counted",
        metadata,
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        Column("up_to", BigInteger, nullable=False),
        Column("at", Instant, nullable=False),
        CheckConstraint("id = 1", name=f"ck_{name}_counted_is_one_row"),
    )
    return figures, counted


def _declare_closures(metadata: MetaData, name: str) -> Table:
    return Table(
        f"{name}_closures",
        metadata,
        Column("began_at", Instant, primary_key=True),
        # NULL while nobody knows; it may lie ahead, where the gate opens by itself.
        Column("ended_at", Instant),
        Column("state", Text, nullable=False),
        Column("reason", AnyText),
        Column("held_by", AnyText),
        # Short ones that followed each other closely are one.
        Column("times", Integer, nullable=False, server_default="1"),
    )


def _declare_discarded(metadata: MetaData, events: Table) -> Table:
    name = f"{events.name}_discarded"
    discarded = Table(
        name,
        metadata,
        Column("id", _ID, primary_key=True, autoincrement=False),
        *(Column(column.name, column.type, nullable=column.nullable) for column in events.c if column.name != "id"),
        Column("discarded_at", Instant, nullable=False),
        Column("discarded_by", AnyText, nullable=False),
        Column("reason", AnyText, nullable=False),
        UniqueConstraint("event_id", name=f"uq_{name}_event_id"),
    )
    Index(f"ix_{name}_at", discarded.c.discarded_at)
    # What an older event of the subject must not undo.
    is_in_doubt = discarded.c.in_doubt_at.is_not(None)
    Index(
        f"ix_{name}_in_doubt",
        *(discarded.c.subject, discarded.c.id),
        postgresql_where=is_in_doubt,
        sqlite_where=is_in_doubt,
    )
    return discarded


def _declare_audit(metadata: MetaData, name: str) -> tuple[Table, Table]:
    audit = Table(
        f"{name}_audit",
        metadata,
        Column("id", _ID, Identity(), primary_key=True),
        Column("at", Instant, nullable=False),
        Column("by", AnyText, nullable=False),
        Column("action", Text, nullable=False),
        Column("reason", AnyText),
        Column("count", Integer, nullable=False),
        Column("detail", Text, nullable=False),
    )
    audit_events = Table(
        f"{name}_audit_events",
        metadata,
        Column("event_id", BigInteger, primary_key=True, autoincrement=False),
        Column("audit_id", BigInteger, primary_key=True, autoincrement=False),
    )
    return audit, audit_events
