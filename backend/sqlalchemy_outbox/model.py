"""The outbox as a table: its columns, the states of an event, and every move between them.

             a enqueue                b claim                  c delivered
 (commit) ───────────▶ pending ───────────▶ claimed ─────────────────▶ delivered
                        ▲  ▲  ▲                │ │ │
                        │  │  └─ d gate shut ──┘ │ │   no attempt charged (also: j it waits for something)
                        │  └─ e retry later ─────┘ │   +1 attempt, backoff (also: the lease ran out)
                        └─ g retry by hand ── failed ◀─ f give up: rejected for good, or the last attempt spent
                                                 └─ h discard by hand ──▶ gone, kept in outbox_events_discarded

Delivered events are purged after a time (i), unless a failed event of their subject is older: its retry must not
move the destination back to what it knew before them. What is discarded is kept for as long, and never comes back.

An outbox serves one destination. Another destination gets a table of its own from `define_outbox`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Dialect,
    Float,
    FromClause,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    and_,
    false,
    func,
    literal_column,
    or_,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.types import TypeDecorator, TypeEngine

from sqlalchemy_outbox.clock import DatabaseNow, Instant
from sqlalchemy_outbox.fillfactor import set_fillfactor
from sqlalchemy_outbox.names import Names
from sqlalchemy_outbox.records import Records, declare_records
from sqlalchemy_outbox.subjects import declare_erasures, declare_subjects
from sqlalchemy_outbox.text import AnyText

Columns: TypeAlias = ReadOnlyColumnCollection[str, Any]

# Three in all, not one and three more. The brief's query for failed events names the number, so it is no setting.
ATTEMPTS_MAX = 3
# PostgreSQL's identifiers have 63 characters at most, and names of indexes add up to 28 to the outbox's.
NAME_CHARS_MAX = 30

# The type of the event that erases a subject, at whatever destination.
ERASURE = "subject_erasure"
# Why an event fails whose subject was forgotten, and how those are told from others that failed: nobody can mend them.
REFUSED = "its subject was forgotten"

_EMPTY: ColumnElement[str] = literal_column("''", Text)
_REFUSED: ColumnElement[str] = literal_column(f"'{REFUSED}'", Text)

# What is set apart is due so late: beyond any backoff or lock, so that `available_at` says which events wait.
WAIT = timedelta(days=36_500)
# No other wait is as long as this.
WAIT_MIN = WAIT / 2


class EventId(TypeDecorator[UUID]):
    """uuid on PostgreSQL; on SQLite text as people write it, with hyphens."""

    impl = Uuid
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Uuid())

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> UUID | str | None:
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], UUID | None] | None:
        return _read_uuid if dialect.name == "sqlite" else None


def _read_uuid(value: str | None) -> UUID | None:
    return None if value is None else UUID(value)


class State(StrEnum):
    PENDING = "pending"
    CLAIMED = "claimed"
    DELIVERED = "delivered"
    FAILED = "failed"


class GateState(StrEnum):
    OPEN = "open"
    THROTTLED = "throttled"
    HELD = "held"


class Event(NamedTuple):
    """A claimed event, as its destination sees it. Order within a subject is `id`.

    `in_doubt_at`: since when a request that carried it may have been applied, though no answer confirmed it. After a
    cautious retry it leaves alone what newer events that nobody can read may have set.
    """

    id: int
    event_id: UUID
    event_type: str
    subject: str
    payload: str
    created_at: datetime
    attempt_count: int
    last_error: str | None
    traceparent: str | None
    retried_at: datetime | None
    in_doubt_at: datetime | None = None
    is_cautious: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outbox:
    """The tables of one outbox: its events, their leases, what they wait for, its gate, workers and records.

    `subjects` were delivered, `erasures` say who was forgotten, and `names` by which name.
    """

    events: Table
    leases: Table
    waits: Table
    gate: Table
    workers: Table
    records: Records
    subjects: Table
    erasures: Table
    names: Names = field(default_factory=Names)

    @property
    def name(self) -> str:
        return self.events.name

    @property
    def tables(self) -> list[Table]:
        """All that it has."""
        own = [self.events, self.leases, self.waits, self.gate, self.workers, self.subjects, self.erasures]
        return [*own, *(getattr(self.records, field_.name) for field_ in fields(self.records))]

    def is_open(self, events: FromClause | None = None) -> ColumnElement[bool]:
        """Neither delivered nor failed: what a later event of the subject waits for. `events` may be an alias."""
        return _is_open((self.events if events is None else events).c)

    def is_in_line(self, events: FromClause | None = None) -> ColumnElement[bool]:
        """Open, and never set apart: what claims go through in the order of ids."""
        return _is_in_line((self.events if events is None else events).c)

    def is_set_apart(self, events: FromClause | None = None) -> ColumnElement[bool]:
        """Open, and it waits for something, or has waited: it comes again as what was pushed back does."""
        return _is_set_apart((self.events if events is None else events).c)

    def is_apart_of_subject(self, events: FromClause) -> ColumnElement[bool]:
        """Set apart; for reading one subject's events."""
        return and_(_may_lie_below_first_open(events.c), func.coalesce(events.c.waits_for, _EMPTY) != _EMPTY)

    def is_waiting(self, events: FromClause | None = None) -> ColumnElement[bool]:
        """Set apart, and not released."""
        return and_(self.is_set_apart(events), self.is_due_after_any_wait(events))

    def is_due_after_any_wait(self, events: FromClause | None = None) -> ColumnElement[bool]:
        return (self.events if events is None else events).c.available_at > DatabaseNow(WAIT_MIN.total_seconds())

    def is_open_of_subject(self, events: FromClause | None = None) -> ColumnElement[bool]:
        """Open; for reading one subject's events."""
        return _is_open_of_subject((self.events if events is None else events).c)

    def is_failure(self) -> ColumnElement[bool]:
        """Failed, and not because its subject was forgotten: for a person to mend."""
        c = self.events.c
        return and_(c.failed_at.is_not(None), func.coalesce(c.failure_reason, _EMPTY) != _REFUSED)

    def is_refusal(self) -> ColumnElement[bool]:
        """Failed because its subject was forgotten. Its own index is that of reasons."""
        c = self.events.c
        return and_(c.failed_at.is_not(None), c.failure_reason == _REFUSED)

    def is_pushed_back(self, events: FromClause | None = None) -> ColumnElement[bool]:
        """Open, and due later than when it was enqueued: it backs off, or a person retried it."""
        return _is_pushed_back((self.events if events is None else events).c)

    def may_lie_below_first_open(self, events: FromClause) -> ColumnElement[bool]:
        """Open again, because a person retried it; or set apart. Others lie above `first_open_id`."""
        return _may_lie_below_first_open(events.c)


def define_outbox(metadata: MetaData, name: str = "outbox_events") -> Outbox:
    """Declare an outbox's tables on `metadata`; create them by your migrations or `metadata.create_all`.

    Raises ValueError for a name of more than NAME_CHARS_MAX characters.
    """
    if len(name) > NAME_CHARS_MAX:
        raise ValueError(
            f"an outbox's name has {NAME_CHARS_MAX} characters at most, since its indexes have it too: {name}"
        )
    events = Table(
        name,
        metadata,
        # An identity column: who may insert needs no right on a sequence besides.
        Column("id", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
        Column("event_id", EventId, nullable=False),
        Column("event_type", AnyText, nullable=False),
        Column("subject", AnyText, nullable=False),
        Column("payload", AnyText, nullable=False),
        Column("created_at", Instant, nullable=False),
        Column("available_at", Instant, nullable=False),
        # The fence: under which lease it is claimed.
        Column("claim_token", Text),
        Column("processed_at", Instant),
        Column("failed_at", Instant),
        Column("attempt_count", Integer, nullable=False, server_default="0"),
        Column("last_error", AnyText),
        # What failed events are grouped by: their errors without ids and numbers.
        Column("failure_reason", AnyText),
        Column("dry_run", Boolean, nullable=False, server_default=false()),
        Column("traceparent", Text),
        Column("retried_at", Instant),
        # Since when a request that carried it may have been applied without a confirmation. A delivery ends that.
        Column("in_doubt_at", Instant),
        # NULL unless a person's retry is to leave alone what unreadable newer events may have set.
        Column("is_cautious", Boolean),
        # The key of what it waits for, or last waited for; then it is due in WAIT, unless it was released since.
        Column("waits_for", AnyText),
        UniqueConstraint("event_id", name=f"uq_{name}_event_id"),
        CheckConstraint(
            f"(attempt_count >= {ATTEMPTS_MAX}) = (failed_at IS NOT NULL)", name=f"ck_{name}_failed_is_spent"
        ),
        CheckConstraint(
            "claim_token IS NULL OR (processed_at IS NULL AND failed_at IS NULL)",
            name=f"ck_{name}_claim_is_open",
        ),
        # Ids are never used twice, so order by id stays the order of commits even after a purge.
        sqlite_autoincrement=True,
    )
    # Claims write each row anew.
    set_fillfactor(events, 50)
    _add_indexes(events)
    leases = Table(
        f"{name}_leases",
        metadata,
        Column("token", Text, primary_key=True),
        Column("until", Instant, nullable=False),
        # The ids of the claim's events.
        Column("event_ids", JSON, nullable=False),
    )
    Index(f"ix_{name}_leases_until", leases.c.until)
    waits = Table(
        f"{name}_waits",
        metadata,
        Column("key", AnyText, primary_key=True),
        Column("reason", AnyText, nullable=False),
        Column("since", Instant, nullable=False),
        # When the destination is asked next whether it is over.
        Column("look_at", Instant, nullable=False),
    )
    gate = Table(
        f"{name}_gate",
        metadata,
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        Column("state", Text, nullable=False, server_default=GateState.OPEN.value),
        Column("until", Instant),
        # When the database said so: an end that was set by a clock that ran ahead is told by it.
        Column("until_set_at", Instant),
        Column("reason", AnyText),
        Column("next_slot_at", Instant, nullable=False),
        Column("outages", Integer, nullable=False, server_default="0"),
        # The person who holds it: nothing but a release lifts that.
        Column("held_by", AnyText),
        CheckConstraint("id = 1", name=f"ck_{name}_gate_is_one_row"),
        CheckConstraint(
            "(state = 'open' OR held_by IS NOT NULL) = (until IS NULL)", name=f"ck_{name}_gate_open_has_no_end"
        ),
        CheckConstraint("held_by IS NULL OR state = 'held'", name=f"ck_{name}_gate_held_by_is_held"),
    )
    workers = Table(
        f"{name}_workers",
        metadata,
        Column("id", Text, primary_key=True),
        # The event types that it claims.
        Column("types", JSON, nullable=False),
        Column("seen_at", Instant, nullable=False),
        # What it said of itself when it was seen; NULL of a worker of an earlier release.
        Column("started_at", Instant),
        Column("stopped_at", Instant),
        Column("machine", Text),
        Column("process", Integer),
        Column("version", Text),
        Column("in_flight", Integer),
        Column("events_per_second", Float),
        Column("requests_per_second", Float),
        # What the destination allows, as far as it has said so.
        Column("requests_allowed_per_second", Float),
    )
    return Outbox(
        *(events, leases, waits, gate, workers, declare_records(metadata, events)),
        declare_subjects(metadata, name),
        declare_erasures(metadata, name, EventId()),
    )


def _is_open(c: Columns) -> ColumnElement[bool]:
    return and_(c.processed_at.is_(None), c.failed_at.is_(None))


def _is_in_line(c: Columns) -> ColumnElement[bool]:
    return and_(_is_open(c), c.waits_for.is_(None))


# What follows says "open" in other words. Statistics from a moment when nothing was open make PostgreSQL believe that
# every index of open events is empty and any will do; so each look has words that only the right index answers to.


def _is_open_of_subject(c: Columns) -> ColumnElement[bool]:
    return func.coalesce(c.processed_at, c.failed_at).is_(None)


def _is_pushed_back(c: Columns) -> ColumnElement[bool]:
    return and_(func.coalesce(c.failed_at, c.processed_at).is_(None), c.available_at > c.created_at)


def _is_set_apart(c: Columns) -> ColumnElement[bool]:
    return and_(func.coalesce(c.failed_at, c.processed_at).is_(None), c.waits_for.is_not(None))


def _may_lie_below_first_open(c: Columns) -> ColumnElement[bool]:
    is_open = func.coalesce(c.failed_at, c.processed_at).is_(None)
    return and_(is_open, or_(c.retried_at.is_not(None), c.waits_for.is_not(None)))


def _add_indexes(events: Table) -> None:
    """Partial indexes hold only what is open or failed, so claims do not slow as delivered events pile up.

    None of them knows of claims: on PostgreSQL a row that is claimed leaves them all as they are (a HOT update).
    """
    name, c = events.name, events.c

    def index(suffix: str, *columns: ColumnElement[object], where: ColumnElement[bool]) -> None:
        Index(f"ix_{name}_{suffix}", *columns, postgresql_where=where, sqlite_where=where)

    index("open", c.id, where=_is_in_line(c))
    index("open_subject", c.subject, c.id, where=_is_open_of_subject(c))
    index("backing_off", c.available_at, where=_is_pushed_back(c))
    index("below_floor", c.subject, c.id, where=_may_lie_below_first_open(c))
    index("set_apart", c.id, where=_is_set_apart(c))
    # Without a word of what is open, for those that a person's statement has failed are looked for too.
    index("waiting", c.waits_for, c.available_at, where=c.waits_for.is_not(None))
    index("failed", c.subject, c.id, where=c.failed_at.is_not(None))
    index("failed_id", c.id, where=c.failed_at.is_not(None))
    index("failed_reason", c.failure_reason, c.id, where=c.failed_at.is_not(None))
    index("delivered", c.processed_at, where=c.processed_at.is_not(None))
    index("delivered_subject", c.subject, c.id, where=c.processed_at.is_not(None))


def event_columns(outbox: Outbox) -> list[Column[Any]]:
    """The columns that `as_event` reads, in its order."""
    return [outbox.events.c[name] for name in Event._fields]


def as_event(row: Sequence[Any]) -> Event:
    return Event._make(row)
