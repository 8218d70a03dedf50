"""Which events may be claimed next: the heads of their subjects that are due, each with the run of events behind it.

    window ─▶ runs ─▶ heads (locked) ─▶ takeable ─▶ batch
                                           └─────────┴─▶ reached: how far the window is used up

A window is a bounded part of the open events, so that a claim costs the same whatever their number. There are two
(see `scan`): the events AHEAD of an id in the order of ids, and the FOLLOWERS of given subjects.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Float,
    FromClause,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    column,
    func,
    literal_column,
    or_,
    select,
    true,
)

from sqlalchemy_outbox.clock import DatabaseNow, DatabaseNowExactly, TransactionBeginning
from sqlalchemy_outbox.database.json_rows import ids_in, rows_of
from sqlalchemy_outbox.database.plan_hints import (
    ONE,
    expensive_if_known,
    is_among,
    is_one_of,
    looked_up,
    unknown_when_planned,
)
from sqlalchemy_outbox.model import Outbox

_NO_LIMIT = 2**62
_ZERO: ColumnElement[int] = literal_column("0", Integer)
_SUBJECTS = (column("subject", Text), column("after", BigInteger))


class WindowKind(StrEnum):
    AHEAD = "ahead"
    FOLLOWERS = "followers"


class Reached(NamedTuple):
    """What there was in a window: its events and the last of them, the heads that were locked, and the first id left.

    Ids are None where there is no such event. Left is what could be claimed and is not in the batch. `last_mark` is the
    last id of `erasures`: whoever knows all up to it knows whose events are to be refused.
    """

    events: int
    last_id: int | None
    heads: int
    last_head_id: int | None
    first_left_id: int | None
    last_mark: int | None


def candidates(outbox: Outbox, kind: WindowKind, dialect_name: str, size: int, limit: int) -> tuple[CTE, Select[Any]]:
    """The ids of up to `limit` events to claim; and one row of `Reached`.

    `size` is the window's, in events; of followers it is each subject's share. Both are written into the statement,
    for a plan for any number expects it to be a tenth of the table. Binds `types`, `first_open_id` (see `watermark`);
    on PostgreSQL `budget` (seconds after which nothing is taken) and `expensive` (EXPENSIVE); and, as the kind of
    window needs, `after` or `subjects`. Relies on ix_…_open, ix_…_open_subject and ix_…_below_floor.
    """
    events = outbox.events.alias("event")
    runs = _runs(_WINDOWS[kind](outbox, events, dialect_name, literal_column(str(size), Integer))).cte("runs")
    limited = literal_column(str(limit), Integer)
    found = _heads(outbox, events, runs, dialect_name)
    if kind is WindowKind.AHEAD:
        found = found.add_columns(_apart_of_subject(outbox, events).label("apart"))
    # Not FOR UPDATE: an event to which somebody's foreign key is being written would be passed by.
    heads = found.limit(limited).with_for_update(skip_locked=True, key_share=True).cte("heads")
    # A run that may have been applied as a whole goes whole once more; a charged event goes alone otherwise.
    goes_whole = select(heads.c.id).where(heads.c.attempt_count == ONE, heads.c.in_doubt_at.is_not(None))
    is_follower_taken = or_(runs.c.charged == _ZERO, and_(runs.c.charged == ONE, is_among(runs.c.head_id, goes_whole)))
    if kind is WindowKind.AHEAD:
        # The window does not show what was set apart between the head and its followers.
        is_whole = is_among(runs.c.head_id, select(heads.c.id).where(heads.c.apart.is_(None)))
        is_follower_taken = and_(is_follower_taken, is_whole)
    takeable = (
        select(runs.c.id, runs.c.head_id)
        .where(
            runs.c.unbroken == ONE,
            or_(runs.c.id == runs.c.head_id, is_follower_taken),
            is_among(runs.c.head_id, select(heads.c.id)),
        )
        .cte("takeable")
    )
    # A charged event may be one that kills its worker, so it takes no other subject along, and waits for its turn.
    oldest = select(heads.c.id, heads.c.attempt_count).order_by(heads.c.id).limit(ONE).subquery("oldest")
    uncharged = select(heads.c.id).where(heads.c.attempt_count == _ZERO)
    travels_now = case(
        (oldest.c.attempt_count > _ZERO, takeable.c.head_id == oldest.c.id),
        else_=is_among(takeable.c.head_id, uncharged),
    )
    batch = (
        select(takeable.c.id)
        .join_from(takeable, oldest, true())
        .where(travels_now, *_in_time(dialect_name))
        .order_by(takeable.c.head_id, takeable.c.id)
        .limit(limited)
        .cte("batch")
    )
    return batch, _reached(outbox, runs, heads, takeable, batch)


def _in_time(dialect_name: str) -> list[ColumnElement[bool]]:
    """What waited long for the table may have been given up by its worker: nobody would deliver what it takes."""
    if dialect_name != "postgresql":
        return []
    budget = expensive_if_known(unknown_when_planned("budget", Float()))
    return [DatabaseNowExactly() < TransactionBeginning(budget)]


def _ahead(outbox: Outbox, events: FromClause, dialect_name: str, size: ColumnElement[int]) -> Select[Any]:
    return (
        _window(events, dialect_name)
        .where(outbox.is_in_line(events), events.c.id > unknown_when_planned("after", BigInteger()))
        .order_by(events.c.id)
        .limit(size)
    )


def _followers(outbox: Outbox, events: FromClause, dialect_name: str, size: ColumnElement[int]) -> Select[Any]:
    """The first events of each of `subjects` after its id: so many for each of them."""
    c = events.c
    subjects = rows_of("subjects", _SUBJECTS, dialect_name)
    its_events = (
        select(c.id)
        .where(c.subject == subjects.c.subject, c.id > subjects.c.after, outbox.is_open_of_subject(events))
        .order_by(c.id)
        .limit(size)
    )
    if dialect_name == "postgresql":
        ids = its_events.correlate(subjects).lateral("its_events")
        shares = select(ids.c.id).select_from(subjects.join(ids, true()))
        return _window(events, dialect_name).where(is_one_of(c.id, shares, dialect_name), outbox.is_open(events))
    # SQLite has no LATERAL.
    beyond = outbox.events.alias("beyond")
    first_beyond = (
        select(beyond.c.id)
        .where(
            beyond.c.subject == subjects.c.subject, beyond.c.id > subjects.c.after, outbox.is_open_of_subject(beyond)
        )
        .order_by(beyond.c.id)
        .limit(1)
        .offset(size)
        .correlate(subjects)
        .scalar_subquery()
    )
    return (
        _window(events, dialect_name)
        .join(subjects, and_(c.subject == subjects.c.subject, c.id > subjects.c.after))
        .where(outbox.is_open_of_subject(events), c.id < func.coalesce(first_beyond, _NO_LIMIT))
    )


_WINDOWS: dict[WindowKind, Callable[[Outbox, FromClause, str, ColumnElement[int]], Select[Any]]] = {
    WindowKind.AHEAD: _ahead,
    WindowKind.FOLLOWERS: _followers,
}


def _window(events: FromClause, dialect_name: str) -> Select[Any]:
    c = events.c
    return select(
        c.id, c.subject, c.attempt_count, case((_is_due(events, dialect_name), ONE), else_=_ZERO).label("is_due")
    )


def _is_due(events: FromClause, dialect_name: str) -> ColumnElement[bool]:
    c = events.c
    if dialect_name == "postgresql":
        is_known = c.event_type == any_(bindparam("types", type_=ARRAY(Text)))
    else:
        is_known = c.event_type.in_(bindparam("types", expanding=True))
    # What was not pushed back is due, also where it was enqueued by a clock that ran ahead.
    is_time = or_(c.available_at <= DatabaseNow(), c.available_at <= c.created_at)
    return and_(c.claim_token.is_(None), is_time, is_known)


def _runs(window: Select[Any]) -> Select[Any]:
    """Each event of the window with what precedes it of its subject there.

    `unbroken` is 1 up to the first event of the subject that is not due, and 0 from there on; `charged` is the number
    of charged events up to it.
    """
    c = window.subquery("in_window").c
    return select(
        c.id,
        func.min(c.id).over(partition_by=c.subject).label("head_id"),
        func.min(c.is_due).over(partition_by=c.subject, order_by=c.id).label("unbroken"),
        func.sum(case((c.attempt_count > _ZERO, ONE), else_=_ZERO))
        .over(partition_by=c.subject, order_by=c.id)
        .label("charged"),
    )


def _heads(outbox: Outbox, events: FromClause, runs: CTE, dialect_name: str) -> Select[Any]:
    """The first due events of their subjects, to be locked. Rows that changed meanwhile are judged once more."""
    c = events.c
    first_of_window = select(runs.c.id).where(runs.c.id == runs.c.head_id, runs.c.unbroken == ONE)
    claimed = outbox.events.alias("claimed")
    is_claimed = is_one_of(claimed.c.id, ids_in(outbox.leases.c.event_ids, dialect_name), dialect_name)
    has_claimed = select(claimed.c.id).where(claimed.c.subject == c.subject, is_claimed, outbox.is_open(claimed))
    return (
        select(c.id, c.attempt_count, c.in_doubt_at)
        .where(
            is_one_of(c.id, first_of_window, dialect_name),
            outbox.is_open(events),
            _is_due(events, dialect_name),
            ~_has_earlier(outbox, events),
            ~_has_earlier_below_first_open(outbox, events),
            # Only a retry by hand makes an event pending that is older than one in flight.
            or_(c.retried_at.is_(None), ~has_claimed.correlate(events).exists()),
        )
        .order_by(c.id)
    )


def _has_earlier(outbox: Outbox, events: FromClause) -> ColumnElement[bool]:
    c, earlier = events.c, outbox.events.alias("earlier")
    return looked_up(
        select(earlier.c.id).where(
            earlier.c.subject == c.subject,
            earlier.c.id < c.id,
            earlier.c.id >= unknown_when_planned("first_open_id", BigInteger()),
            outbox.is_open_of_subject(earlier),
        ),
        events,
    )


def _has_earlier_below_first_open(outbox: Outbox, events: FromClause) -> ColumnElement[bool]:
    """Events below the first open id: a person's retry opens one, and what is set apart is not counted as open."""
    c, earlier = events.c, outbox.events.alias("earlier")
    return looked_up(
        select(earlier.c.id).where(
            earlier.c.subject == c.subject, earlier.c.id < c.id, outbox.may_lie_below_first_open(earlier)
        ),
        events,
    )


def _apart_of_subject(outbox: Outbox, events: FromClause) -> ColumnElement[int]:
    """An event of the same subject that was set apart; NULL where there is none."""
    apart = outbox.events.alias("apart")
    is_apart = and_(apart.c.subject == events.c.subject, outbox.is_apart_of_subject(apart))
    return select(apart.c.id).where(is_apart).limit(ONE).correlate(events).scalar_subquery()


def _reached(outbox: Outbox, runs: CTE, heads: CTE, takeable: CTE, batch: CTE) -> Select[Any]:
    """In the order of `Reached`."""
    seen = select(func.count().label("events"), func.max(runs.c.id).label("last_id")).subquery("seen")
    locked = select(func.count().label("heads"), func.max(heads.c.id).label("last_head_id")).subquery("locked")
    is_left = takeable.c.id.not_in(select(batch.c.id))
    left = select(func.min(takeable.c.id).label("first_left_id")).where(is_left).subquery("kept")
    last_mark = select(func.max(outbox.erasures.c.id)).scalar_subquery().label("last_mark")
    return select(seen, locked, left, last_mark).select_from(seen.join(locked, true()).join(left, true()))
