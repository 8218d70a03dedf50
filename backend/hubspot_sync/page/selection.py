"""Which events a request means: as fields of a query or a form, as a selection, and in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from starlette.exceptions import HTTPException

from hubspot_sync.page.forms import Form
from sqlalchemy_outbox.model import State
from sqlalchemy_outbox.operations import EventFilter, EventIds, Selection

AGES = {
    "5m": ("5 minutes", timedelta(minutes=5)),
    "1h": ("an hour", timedelta(hours=1)),
    "1d": ("a day", timedelta(days=1)),
    "7d": ("a week", timedelta(days=7)),
}

Fields = list[tuple[str, str]]


def filter_of(form: Form) -> EventFilter:
    """What the fields ask for; empty ones ask for nothing. `no_reason` is for failures that gave no words."""
    state, age = form.text("state"), form.text("older_than")
    if state and state not in set(State):
        raise HTTPException(400, "There is no such state.")
    if age and age not in AGES:
        raise HTTPException(400, "There is no such age.")
    return EventFilter(
        state=State(state) if state else None,
        event_type=form.text("type") or None,
        subject=form.text("subject") or None,
        older_than=AGES[age][1] if age else None,
        reason="" if form.text("no_reason") else form.text("reason") or None,
        since=_instant(form, "since"),
        until=_instant(form, "until"),
    )


def selection_of(form: Form) -> Selection:
    """The ticked events if the fields name any, else the failed ones that they ask for."""
    if ticked := form.texts("event"):
        return EventIds(frozenset(_uuid(id_) for id_ in ticked))
    asked = filter_of(form)
    if asked == EventFilter():
        raise HTTPException(400, "No event is selected: go back, and tick some.")
    return asked


def fields_of(selection: Selection) -> Fields:
    """The fields that `selection_of` makes this selection of."""
    if isinstance(selection, EventIds):
        return [("event", str(id_)) for id_ in sorted(selection.ids)]
    age = next((key for key, (_, age) in AGES.items() if age == selection.older_than), None)
    fields = {
        "state": selection.state,
        "type": selection.event_type,
        "subject": selection.subject,
        "older_than": age,
        "reason": selection.reason,
        "no_reason": "1" if selection.reason == "" else None,
        "since": _as_field(selection.since),
        "until": _as_field(selection.until),
    }
    return [(name, str(value)) for name, value in fields.items() if value]


def in_words(selection: Selection) -> str:
    """Which failed events they are, to follow their number; empty for ticked ones."""
    if isinstance(selection, EventIds):
        return ""
    words = []
    if selection.event_type:
        words.append(f"of the type {selection.event_type}")
    if selection.subject:
        words.append(f"of {selection.subject}")
    if selection.older_than:
        age = next(words for words, age in AGES.values() if age == selection.older_than)
        words.append(f"enqueued more than {age} ago")
    if selection.since:
        words.append(f"enqueued since {_as_field(selection.since)}")
    if selection.until:
        words.append(f"enqueued before {_as_field(selection.until)}")
    if selection.reason is not None:
        words.append(f"for the reason “{selection.reason}”" if selection.reason else "that gave no reason")
    return ", ".join(words)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise HTTPException(400, "An event's id is a UUID.") from error


def _instant(form: Form, name: str) -> datetime | None:
    """An ISO 8601 instant; UTC where it names no zone, as a browser's own field for it does not."""
    text = form.text(name, 40)
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise HTTPException(400, f"{name} is no instant like 2026-12-01T03:00Z.") from error


def _as_field(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
