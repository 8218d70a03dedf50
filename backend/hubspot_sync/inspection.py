"""What a person sees of an event: what it holds, and the request that it would be sent as."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hubspot_sync.event import Catalog
from hubspot_sync.overtaken import Unreadable, objection_to, without_what_newer_set
from hubspot_sync.redaction import without_personal
from hubspot_sync.translation import translate
from sqlalchemy_outbox.claiming.newer import Newer
from sqlalchemy_outbox.model import ATTEMPTS_MAX, ERASURE, Event, State
from sqlalchemy_outbox.operations import History
from sqlalchemy_outbox.outcome import Rejected


@dataclass(frozen=True, slots=True)
class Inspection:
    """`request` is what would be sent now for this event alone, or `objection` why nothing would.

    Both are None of what was delivered or discarded. What waits behind the event may join it on the way.
    """

    payload: object
    request: object = None
    objection: str | None = None


def inspect(history: History, newer: Iterable[Newer], catalog: Catalog, *, is_revealed: bool) -> Inspection:
    """Look at the event; without what is personal, unless that is to be revealed.

    `newer` are those of its subject, the newest first; as many are taken as are needed.
    """

    def shown(value: object) -> object:
        try:
            seen = value if is_revealed else without_personal(value, catalog.personal_names)
            json.dumps(seen, indent=2)
        except RecursionError:
            return "(nested too deeply to be shown)"
        return seen

    if history.event.event_type == ERASURE:
        # It holds by what the person is found; it is not sent as a contact.
        return Inspection({})
    payload = shown(_parsed(history.event.payload))
    if history.summary.state is State.DELIVERED or history.discarded:
        return Inspection(payload)
    translation = translate([_as_retried(history.event)], catalog)
    if isinstance(rejected := translation.not_sent.get(history.event.id), Rejected):
        return Inspection(payload, objection=rejected.error)
    try:
        upserts = [without_what_newer_set(upsert, newer) for upsert in translation.upserts]
    except Unreadable as unreadable:
        return Inspection(payload, objection=objection_to(unreadable))
    request: Mapping[str, object] = {"inputs": [upsert.as_input() for upsert in upserts]}
    return Inspection(payload, shown(request))


def _as_retried(event: Event) -> Event:
    """A failed event is sent when a person retries it, which gives it all its attempts again."""
    return event if event.attempt_count < ATTEMPTS_MAX else event._replace(attempt_count=0)


def _parsed(payload: str) -> object:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        # Stored by a release that took any text.
        return payload
