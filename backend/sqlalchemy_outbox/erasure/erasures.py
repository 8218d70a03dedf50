"""The statements by which a forgotten subject leaves the outbox's tables, each a bounded step.

open erasure ─▶ what waits is refused · what ended is deleted (once in a while, until nothing new can come)
             ─▶ the destination erases ─▶ words that name the subject are taken out of what is told of others
             ─▶ the erasure's event loses the subject itself ─▶ on SQLite, the write-ahead log is emptied
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    and_,
    delete,
    func,
    literal,
    null,
    or_,
    select,
    type_coerce,
    update,
)

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.housekeeping import purge
from sqlalchemy_outbox.model import ATTEMPTS_MAX, ERASURE, REFUSED, Event, Outbox, as_event, event_columns
from sqlalchemy_outbox.outcome import Place
from sqlalchemy_outbox.text import AnyText

# A transaction of this size holds its locks for a moment only.
_AT_ONCE = 1000
# So many events are looked through at once for what they mention.
_WINDOW = 50_000
# So many subjects a look takes at once.
_ERASURES_AT_ONCE = 20
# What was claimed when a look came is refused by the next one, if it did not end.
LOOK_EVERY = timedelta(seconds=5)
# Of the facts: texts that name the subject.
WORDS = "words"

Facts = Mapping[str, object]
Remember = Callable[[Facts, Sequence[Event]], Facts]
"""What the destination has to know of a subject's events once they are deleted, added to what it knew: JSON.

Under WORDS are all texts that name the subject, for those in what is told of others to be found.
"""


def remember_nothing(facts: Facts, _events: Sequence[Event]) -> Facts:
    return facts


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to be known of a subject that is to be erased: where it was delivered to, and its `facts`."""

    place: Place | None
    facts: Facts = field(repr=False)


def look(connection: Connection, outbox: Outbox, remember: Remember) -> int:
    """Take a step for each of some erasures that it is time to look at; how many events left.

    One whose event has failed is looked at too: the destination's refusal keeps nothing here. Relies on
    ix_…_erasures_open.
    """
    e, c = outbox.erasures.c, outbox.events.c
    soon = DatabaseNow(2 * LOOK_EVERY.total_seconds())
    due = (
        select(e.id, e.event_id)
        # A clock that had jumped may have left one far ahead.
        .where(e.cleaned_at.is_(None), e.erased_at.is_(None), or_(e.look_at <= DatabaseNow(), e.look_at > soon))
        .order_by(e.id)
        .limit(_ERASURES_AT_ONCE)
    )
    left = 0
    for row in connection.execute(due).all():
        # The event before the erasure's own row, as all do. Who has it is at it.
        event = select(*event_columns(outbox)).where(c.event_id == row.event_id)
        found = connection.execute(event.with_for_update(key_share=True, skip_locked=True)).one_or_none()
        if found is None:
            continue
        count, has_more = step(connection, outbox, as_event(found), remember)
        left += count
        if not has_more:
            later = DatabaseNow(LOOK_EVERY.total_seconds())
            connection.execute(update(outbox.erasures).where(e.id == row.id).values(look_at=later))
    return left


def step(connection: Connection, outbox: Outbox, erasure: Event, remember: Remember) -> tuple[int, bool]:
    """Refuse some of what waits of the erasure's subject, delete some of what ended; how many, if more is left.

    What the destination has to know of them is kept first.
    """
    c = outbox.events.c
    # First of all: a step that would pass by what another one has locked must not go on before that one has kept it.
    connection.execute(_open_erasures(outbox, erasure.subject)).all()
    is_other = and_(c.subject == erasure.subject, c.event_type != ERASURE)
    # By three indexes; together they hold all of a subject.
    waiting = _some(connection, outbox, outbox.events, is_other, outbox.is_open_of_subject(), c.claim_token.is_(None))
    failed = _some(connection, outbox, outbox.events, is_other, c.failed_at.is_not(None))
    delivered = _some(connection, outbox, outbox.events, is_other, c.processed_at.is_not(None))
    d = outbox.records.discarded.c
    discarded = _some(connection, outbox, outbox.records.discarded, d.subject == erasure.subject)
    found = [*waiting, *failed, *delivered, *discarded]
    if not found:
        return 0, False
    keep(connection, outbox, found, remember)
    refuse(connection, outbox, dict.fromkeys((it.id for it in waiting), _name_of(connection, outbox, erasure)))
    ended = [it.id for it in (*failed, *delivered)]
    purge.delete_what_is_told(connection, outbox, [*ended, *(it.id for it in discarded)])
    connection.execute(delete(outbox.events).where(c.id.in_(ended)))
    connection.execute(delete(outbox.records.discarded).where(d.id.in_([it.id for it in discarded])))
    _count(connection, outbox, erasure, deleted=len(ended), discarded=len(discarded))
    return len(found), any(len(some) == _AT_ONCE for some in (waiting, failed, delivered, discarded))


def keep(connection: Connection, outbox: Outbox, events: Sequence[Event], remember: Remember) -> None:
    """Keep what the destination has to know of these events in the payloads of their subjects' open erasures.

    Relies on ix_…_open_subject.
    """
    c = outbox.events.c
    for subject in {event.subject for event in events}:
        its_events = [event for event in events if event.subject == subject]
        for row in connection.execute(_open_erasures(outbox, subject)).all():
            payload = json.dumps(remember(json.loads(row.payload), its_events))
            connection.execute(update(outbox.events).where(c.id == row.id).values(payload=payload))


def _open_erasures(outbox: Outbox, subject: str) -> Select[Any]:
    """The events that erase the subject, locked in order. Relies on ix_…_open_subject."""
    c = outbox.events.c
    is_its = and_(c.subject == subject, c.event_type == ERASURE, outbox.is_open_of_subject())
    return select(c.id, c.payload).where(is_its).order_by(c.id).with_for_update(key_share=True)


def refuse(connection: Connection, outbox: Outbox, names: Mapping[int, str]) -> None:
    """Make refusals of these events, by `id`, whose subjects have these names: failed, and nothing of a person left."""
    c = outbox.events.c
    for name in set(names.values()):
        ids = [id_ for id_, its_name in names.items() if its_name == name]
        refusal = {"subject": name, "payload": "{}", "last_error": REFUSED, "failure_reason": REFUSED}
        ended = {"failed_at": DatabaseNow(), "attempt_count": ATTEMPTS_MAX, "claim_token": null(), "waits_for": null()}
        connection.execute(update(outbox.events).where(c.id.in_(ids)).values(**refusal, **ended, in_doubt_at=null()))
    purge.delete_what_is_told(connection, outbox, list(names))
    if names and connection.dialect.name == "sqlite":
        # What they held is in its log again, where their erasures are done already.
        e = outbox.erasures.c
        is_concerned = and_(e.name.in_(set(names.values())), e.erased_at.is_not(None))
        connection.execute(update(outbox.erasures).where(is_concerned).values(cleaned_at=null()))


def is_free(connection: Connection, outbox: Outbox, erasure: Event, refused: Collection[int]) -> bool:
    """Whether no event of its subject is open but these: one that is claimed ends first.

    Relies on ix_…_open_subject.
    """
    c = outbox.events.c
    is_other = and_(c.subject == erasure.subject, c.event_type != ERASURE, c.id.not_in(refused))
    others = select(c.id).where(is_other, outbox.is_open_of_subject())
    return connection.execute(others.limit(1)).first() is None


def read_known(connection: Connection, outbox: Outbox, erasure: Event) -> Known:
    s, c = outbox.subjects.c, outbox.events.c
    row = connection.execute(select(s.record_id, s.key_property).where(s.subject == erasure.subject)).one_or_none()
    payload = connection.execute(select(c.payload).where(c.id == erasure.id)).scalar_one()
    return Known(None if row is None else Place(row.record_id, row.key_property), json.loads(payload))


def read_mentions(
    connection: Connection, outbox: Outbox, erasure: Event, texts: Sequence[str], after: int
) -> tuple[list[Event], int | None]:
    """Of a window of events behind the id `after`, those of other subjects in whose payloads one of the texts stands.

    And the window's last id; None where it was the last one. Whatever the case of letters.
    """
    c = outbox.events.c
    ahead = select(c.id).where(c.id > after).order_by(c.id).offset(_WINDOW - 1).limit(1)
    end: int | None = connection.execute(ahead).scalar_one_or_none()
    in_window = [c.id > after] if end is None else [c.id > after, c.id <= end]
    find = func.instr if connection.dialect.name == "sqlite" else func.strpos
    payload = func.lower(type_coerce(c.payload, Text))
    # As JSON writes them.
    escaped = [json.dumps(text.lower())[1:-1] for text in texts]
    is_mentioning = or_(*(find(payload, literal(text, AnyText())) > 0 for text in escaped))
    found = select(*event_columns(outbox)).where(*in_window, c.subject != erasure.subject, is_mentioning).order_by(c.id)
    return [as_event(row) for row in connection.execute(found)], end


def finish(connection: Connection, outbox: Outbox, erasure: Event, told: Mapping[str, object], *, words: int) -> None:
    """The destination has erased the subject: nothing here names it any more, the erasure's own event included."""
    e, c = outbox.erasures.c, outbox.events.c
    name = _name_of(connection, outbox, erasure)
    connection.execute(update(outbox.events).where(c.id == erasure.id).values(subject=name, payload="{}"))
    connection.execute(delete(outbox.subjects).where(outbox.subjects.c.subject == erasure.subject))
    _end_failed_ones(connection, outbox, erasure)
    _count(connection, outbox, erasure, words=words)
    # What a file of SQLite has had is in its log until that is emptied.
    cleaned_at = null() if connection.dialect.name == "sqlite" else DatabaseNow()
    done = {"erased_at": DatabaseNow(), "told": json.dumps(told), "cleaned_at": cleaned_at}
    connection.execute(update(outbox.erasures).where(e.event_id == erasure.event_id).values(**done))


def _end_failed_ones(connection: Connection, outbox: Outbox, erasure: Event) -> None:
    """Erasures of the subject that have failed before are done by this one. Relies on ix_…_failed."""
    c, e = outbox.events.c, outbox.erasures.c
    is_other = (c.subject == erasure.subject, c.event_type == ERASURE, c.failed_at.is_not(None))
    failed = connection.execute(select(c.id, c.event_id).where(*is_other).with_for_update()).all()
    if not failed:
        return
    told = json.dumps({"done_by": str(erasure.event_id)})
    done = {"erased_at": DatabaseNow(), "cleaned_at": DatabaseNow(), "told": told}
    is_its = e.event_id.in_([row.event_id for row in failed])
    connection.execute(update(outbox.erasures).where(is_its).values(**done))
    ids = [row.id for row in failed]
    purge.delete_what_is_told(connection, outbox, ids)
    connection.execute(delete(outbox.events).where(c.id.in_(ids)))


def count_open(connection: Connection, outbox: Outbox) -> int:
    """How many erasures are not done. Relies on ix_…_erasures_open."""
    e = outbox.erasures.c
    return connection.execute(select(func.count()).where(e.cleaned_at.is_(None))).scalar_one()


def count_of_other_keys(connection: Connection, outbox: Outbox) -> int:
    """How many erasures name their subjects by another key than this process has."""
    e = outbox.erasures.c
    return connection.execute(select(func.count()).where(e.key_name != (outbox.names.of_key() or ""))).scalar_one()


def read_unclean(connection: Connection, outbox: Outbox) -> dict[int, str]:
    """Erasures that are done but for the database's files, by `id`, with their names. Relies on ix_…_erasures_open."""
    e = outbox.erasures.c
    done = select(e.id, e.name).where(e.cleaned_at.is_(None), e.erased_at.is_not(None))
    return {row.id: row.name for row in connection.execute(done)}


def note_clean(connection: Connection, outbox: Outbox, ids: Collection[int]) -> None:
    e = outbox.erasures.c
    connection.execute(update(outbox.erasures).where(e.id.in_(ids)).values(cleaned_at=DatabaseNow()))


def _some(connection: Connection, outbox: Outbox, table: Table, *conditions: ColumnElement[bool]) -> list[Event]:
    columns = [table.c[it.name] for it in event_columns(outbox)]
    chosen = select(*columns).where(*conditions).order_by(table.c.id).limit(_AT_ONCE)
    return [as_event(row) for row in connection.execute(chosen.with_for_update(skip_locked=True)).all()]


def _name_of(connection: Connection, outbox: Outbox, erasure: Event) -> str:
    """As it was written down: this process may have another key by now."""
    e = outbox.erasures.c
    name: str = connection.execute(select(e.name).where(e.event_id == erasure.event_id)).scalar_one()
    return name


def _count(connection: Connection, outbox: Outbox, erasure: Event, **removed: int) -> None:
    e = outbox.erasures.c
    is_its = e.event_id == erasure.event_id
    before = connection.execute(select(e.removed).where(is_its)).scalar_one()
    counts = Counter(json.loads(before or "{}"))
    counts.update(removed)
    connection.execute(update(outbox.erasures).where(is_its).values(removed=json.dumps(counts)))
