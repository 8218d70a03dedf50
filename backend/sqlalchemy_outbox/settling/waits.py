"""What events wait for: noted by the claim that sets them apart, looked at in turns, and released once it is there.

One row for each key. Whoever notes or releases locks the key's row before its events, so that none is set apart for a
key whose row is just going. In a claim's way stands none of them: they are in no index that claims go through in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, func, null, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from sqlalchemy_outbox.clock import DatabaseNow, DatabaseNowExactly
from sqlalchemy_outbox.model import WAIT, Outbox
from sqlalchemy_outbox.outcome import behind

# How often the destination is asked about one key, by whichever worker of them all.
LOOK_EVERY = timedelta(seconds=15)
# More keys than a look takes at once are those of the next one.
_KEYS_MAX = 100
# A transaction of this size holds its locks for a moment only.
_AT_ONCE = 1000
# So many events in line a step of `set_apart_behind` goes through.
_WINDOW = 10_000


@dataclass(frozen=True, slots=True)
class Wait:
    """`events` wait since then for what `key` names; `reason` says so in words, with the remedy."""

    key: str
    reason: str
    since: datetime
    events: int

    def as_json(self) -> dict[str, object]:
        return {"key": self.key, "reason": self.reason, "since": self.since.isoformat(), "events": self.events}


def note(connection: Connection, outbox: Outbox, reasons: Mapping[str, str]) -> None:
    """Make a row for each of these keys, or give it these words; its events are set apart by the same transaction."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    for key, reason in sorted(reasons.items()):
        row = {"key": key, "reason": reason, "since": DatabaseNow(), "look_at": DatabaseNow(LOOK_EVERY.total_seconds())}
        statement = insert(outbox.waits).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"reason": reason}))


def hurry(connection: Connection, outbox: Outbox) -> None:
    """Let all be looked at by the next look: a person has done something about it."""
    connection.execute(update(outbox.waits).values(look_at=DatabaseNow()))


def take_due(connection: Connection, outbox: Outbox, *, is_hurried: bool = False) -> Sequence[str]:
    """The keys to be looked at now, by nobody else for LOOK_EVERY; all of them in a hurry."""
    c = outbox.waits.c
    # A clock that had jumped may have left one far ahead.
    is_due = or_(c.look_at <= DatabaseNow(), c.look_at > DatabaseNow(2 * LOOK_EVERY.total_seconds()))
    due = select(c.key).order_by(c.key).limit(_KEYS_MAX).with_for_update(skip_locked=True)
    keys = connection.execute(due if is_hurried else due.where(is_due)).scalars().all()
    if keys:
        later = DatabaseNow(LOOK_EVERY.total_seconds())
        connection.execute(update(outbox.waits).where(c.key.in_(keys)).values(look_at=later))
    return keys


def release(connection: Connection, outbox: Outbox, key: str, *, at_once: int = _AT_ONCE) -> bool:
    """What the key names is there: make some of its events due now; true when more are left. Relies on ix_…_waiting."""
    c = outbox.events.c
    if not _lock(connection, outbox, key):
        return False
    chosen = select(c.id).where(c.waits_for == key, outbox.is_waiting()).order_by(c.available_at).limit(at_once)
    ids = connection.execute(chosen).scalars().all()
    _make_due(connection, outbox, c.id.in_(ids))
    if len(ids) == at_once:
        return True
    _forget(connection, outbox, key)
    return False


def tidy(connection: Connection, outbox: Outbox, key: str) -> None:
    """What the key names is not there: forget the key all the same if nothing waits for it any more.

    An event that a person's statement has failed waits no longer, nor does what waited behind it: it is looked at anew.
    Relies on ix_…_waiting.
    """
    c = outbox.events.c
    if not _lock(connection, outbox, key):
        return
    given_up = select(c.id, c.subject).where(c.waits_for == key, c.failed_at.is_not(None)).limit(_AT_ONCE)
    if rows := connection.execute(given_up).all():
        connection.execute(update(outbox.events).where(c.id.in_([row.id for row in rows])).values(waits_for=null()))
        release_subjects(connection, outbox, {row.subject for row in rows})
    first = select(c.id).where(c.waits_for == key, outbox.is_waiting()).limit(1)
    if connection.execute(first).first() is None:
        _forget(connection, outbox, key)


def release_subjects(connection: Connection, outbox: Outbox, subjects: Iterable[str]) -> None:
    """Make due what waits of these subjects: it may have waited behind an event that is gone."""
    if named := list(subjects):
        _make_due(connection, outbox, outbox.events.c.subject.in_(named))


def set_apart_behind(connection: Connection, outbox: Outbox, after: int) -> int | None:
    """Of some events in line whose ids are above `after`, set apart those that have to wait behind one that waits.

    Or each full pass of each worker would skip all of them. Returns the last id read, None at the line's end.
    Relies on ix_…_open and ix_…_below_floor.
    """
    c = outbox.events.c
    in_line = (outbox.is_in_line(), c.claim_token.is_(None), c.id > after)
    window_end = select(c.id).where(*in_line).order_by(c.id).offset(_WINDOW - 1).limit(1)
    end: int | None = connection.execute(window_end).scalar_one_or_none()
    if end is not None:
        _set_apart_behind(connection, outbox, [*in_line, c.id <= end])
        return end
    _set_apart_behind(connection, outbox, in_line)
    # What was released, and waits behind an event that waits for something else.
    _set_apart_behind(
        connection, outbox, [outbox.is_set_apart(), c.claim_token.is_(None), c.available_at <= DatabaseNow()]
    )
    return None


def read_waits(connection: Connection, outbox: Outbox) -> list[Wait]:
    """What is waited for, the longest first. Relies on ix_…_waiting."""
    c, w = outbox.events.c, outbox.waits.c
    count = select(func.count()).where(c.waits_for == w.key, outbox.is_waiting()).correlate(outbox.waits)
    statement = select(w.key, w.reason, w.since, count.scalar_subquery().label("events")).order_by(w.since, w.key)
    return [Wait(*row) for row in connection.execute(statement) if row.events]


def _lock(connection: Connection, outbox: Outbox, key: str) -> bool:
    """Whether there still is a row of the key."""
    locked = select(outbox.waits.c.key).where(outbox.waits.c.key == key).with_for_update()
    return connection.execute(locked).first() is not None


def _make_due(connection: Connection, outbox: Outbox, is_chosen: ColumnElement[bool]) -> None:
    c = outbox.events.c
    # In order, so that two who lock the same events wait for each other and not in a circle.
    waiting = select(c.id).where(is_chosen, outbox.is_waiting()).order_by(c.id).with_for_update(key_share=True)
    ids = connection.execute(waiting).scalars().all()
    connection.execute(update(outbox.events).where(c.id.in_(ids)).values(available_at=DatabaseNowExactly()))


def _key_ahead(outbox: Outbox) -> ColumnElement[str]:
    """What the first waiting event of the subject waits for, of those before the event."""
    c, ahead = outbox.events.c, outbox.events.alias("ahead")
    is_waiting = (outbox.is_apart_of_subject(ahead), outbox.is_due_after_any_wait(ahead))
    is_ahead = (ahead.c.subject == c.subject, ahead.c.id < c.id, *is_waiting)
    first = select(ahead.c.waits_for).where(*is_ahead).order_by(ahead.c.id).limit(1)
    return first.correlate(outbox.events).scalar_subquery()


def _set_apart_behind(connection: Connection, outbox: Outbox, window: Sequence[ColumnElement[bool]]) -> None:
    key_ahead = _key_ahead(outbox)
    keys = connection.execute(select(key_ahead).where(*window, key_ahead.is_not(None)).distinct()).scalars().all()
    for key in sorted(keys):
        if _lock(connection, outbox, key):
            _set_apart(connection, outbox, key, [*window, key_ahead == key])


def _set_apart(connection: Connection, outbox: Outbox, key: str, is_behind: Sequence[ColumnElement[bool]]) -> None:
    c, w = outbox.events.c, outbox.waits.c
    locked = select(c.id).where(*is_behind).order_by(c.id).with_for_update(key_share=True)
    ids = connection.execute(locked).scalars().all()
    reason = connection.execute(select(w.reason).where(w.key == key)).scalar_one()
    apart = {"waits_for": key, "available_at": DatabaseNow(WAIT.total_seconds()), "last_error": behind(reason)}
    for start in range(0, len(ids), _AT_ONCE):
        connection.execute(update(outbox.events).where(c.id.in_(ids[start : start + _AT_ONCE])).values(apart))


def _forget(connection: Connection, outbox: Outbox, key: str) -> None:
    connection.execute(delete(outbox.waits).where(outbox.waits.c.key == key))
