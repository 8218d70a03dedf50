"""What an event may still say of its contact when newer events of its subject may have spoken already.

For each property the newest event that set it wins. What newer delivered events said goes along; what newer events in
doubt may have set is left alone. They are read from the newest on, and no further than the properties ask for.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from hubspot_sync.event import Catalog, UnreadableEvent
from hubspot_sync.moves import said_by
from hubspot_sync.translation import ContactUpsert, Contribution, Translation
from sqlalchemy_outbox.claiming.newer import Newer, Standing, may_be_overtaken
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Postponed, Rejected

# A worker of the release that can read the newer event is there, and may have the next turn.
WAIT_FOR_READER = timedelta(seconds=10)


class Unreadable(Exception):
    """A newer event may have set the same, and cannot be read here."""

    def __init__(self, event: Event) -> None:
        super().__init__(f"newer {event.event_type} event {event.event_id}")
        self.event = event


class Overtaken:
    """Takes in an upsert's newer events, the newest first, until it is known what each of its properties stands at."""

    def __init__(self, upsert: ContactUpsert) -> None:
        self._upsert = upsert
        self._catalog = upsert.catalog
        first = upsert.events[0]
        self._is_cautious = any(event.is_cautious for event in upsert.events)
        # What has cost two attempts travels alone: those that wait behind it may have been merged with it.
        self._heeds_waiting = first.attempt_count > 1
        self._newer: list[Contribution] = []
        # Of each property that is not known yet, the last event of the upsert that sets it.
        self._unknown: dict[str, int] = {}
        for contribution in upsert.contributions:
            self._unknown |= dict.fromkeys(contribution.properties, contribution.event.id)
        self._unknown.pop(self._catalog.key.name, None)

    @property
    def is_complete(self) -> bool:
        return not self._unknown

    def note(self, newer: Newer) -> None:
        """Raises Unreadable when the event cannot be read and may have set what is not known yet."""
        event = newer.event
        # Where the upsert has something newer itself, that stands.
        self._unknown = {name: id_ for name, id_ in self._unknown.items() if id_ < event.id}
        if self.is_complete or (newer.standing is Standing.WAITING and not self._heeds_waiting):
            return
        said = self._said_by(newer)
        self._newer.append(Contribution(event, said, is_carried=False))
        for name in said:
            del self._unknown[name]

    def upsert(self) -> ContactUpsert:
        """What may still be said."""
        return self._upsert.beside(self._newer)

    def _said_by(self, newer: Newer) -> dict[str, str | None]:
        try:
            said = said_by(newer.event, self._catalog)
        except UnreadableEvent:
            if newer.standing is Standing.WAITING:
                return {}
            if not self._is_cautious:
                raise Unreadable(newer.event) from None
            return dict.fromkeys(self._unknown)
        stands = newer.standing is Standing.DELIVERED
        return {name: value if stands else None for name, value in said.items() if name in self._unknown}


def without_what_newer_set(upsert: ContactUpsert, newer_events: Iterable[Newer]) -> ContactUpsert:
    """The upsert beside these newer events, the newest first; raises Unreadable."""
    overtaken = Overtaken(upsert)
    for newer in newer_events:
        overtaken.note(newer)
        if overtaken.is_complete:
            break
    return overtaken.upsert()


async def without_overtaken(translation: Translation, claim: Claim) -> Translation:
    """The translation of a claim beside what is newer; what an unreadable newer event may have set is not sent."""
    upserts: list[ContactUpsert] = []
    not_sent = dict(translation.not_sent)
    for upsert in translation.upserts:
        if not may_be_overtaken(upsert.events):
            upserts.append(upsert)
            continue
        try:
            upserts.append(await _heed(upsert, claim))
        except Unreadable as unreadable:
            outcome = await _outcome_of(unreadable, claim, upsert.catalog)
            not_sent |= {event.id: outcome for event in upsert.events}
    return Translation(upserts, not_sent)


async def _heed(upsert: ContactUpsert, claim: Claim) -> ContactUpsert:
    overtaken = Overtaken(upsert)
    async for newer in claim.newer(upsert.events[0]):
        overtaken.note(newer)
        if overtaken.is_complete:
            break
    return overtaken.upsert()


async def _outcome_of(unreadable: Unreadable, claim: Claim, catalog: Catalog) -> Postponed | Rejected:
    type_ = unreadable.event.event_type
    if type_ not in catalog.types and type_ in await claim.known_types():
        return Postponed(f"waits for a worker that can read the {unreadable}", WAIT_FOR_READER)
    return Rejected(objection_to(unreadable))


def objection_to(unreadable: Unreadable) -> str:
    """Why nothing is sent, where nobody can read the newer event."""
    return (
        f"the {unreadable} may have set the same properties, and no running worker can read it: "
        "`retry --cautious` leaves alone what it may have set, or discard this event"
    )
