"""What a person sees of an event: what it holds, and the request that it would be sent as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hubspot_sync.event import Catalog
from hubspot_sync.redaction import without_personal
from hubspot_sync.translation import translate
from outbox.model import State
from outbox.operations import History


@dataclass(frozen=True, slots=True)
class Inspection:
    """`request` is what would be sent now for this event alone, or `objection` why nothing would.

    Both are None of what was delivered or discarded. What waits behind the event may join it on the way.
    """

    payload: object
    request: object = None
    objection: str | None = None


def inspect(history: History, catalog: Catalog, *, is_revealed: bool) -> Inspection:
    """Look at the event; without what is personal, unless that is to be revealed."""

    def shown(value: object) -> object:
        try:
            seen = value if is_revealed else without_personal(value, catalog.personal_names)
            json.dumps(seen, indent=2)
        except RecursionError:
            return "(nested too deeply to be shown)"
        return seen

    payload = shown(_parsed(history.event.payload))
    if history.summary.state is State.DELIVERED or history.discarded:
        return Inspection(payload)
    translation = translate([history.event], catalog, history.newer)
    if (rejected := translation.rejected.get(history.event.id)) is not None:
        return Inspection(payload, objection=rejected.error)
    request: Mapping[str, object] = {"inputs": [it.as_input() for it in translation.upserts]}
    return Inspection(payload, shown(request))


def _parsed(payload: str) -> object:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        # Stored by a release that took any text.
        return payload
