"""Events become contact upserts: one per subject, later values over earlier ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hubspot_sync.event import Catalog, UnreadableEvent
from outbox.model import Event
from outbox.outcome import Rejected

# HubSpot's own limit on the inputs of a batch.
INPUTS_MAX = 100


@dataclass(frozen=True, slots=True)
class ContactUpsert:
    """One input: the contact whose `key_property` is `key` gets `properties`; the events it carries, in order."""

    key_property: str
    key: str
    properties: dict[str, str]
    events: tuple[Event, ...]

    @property
    def trace_id(self) -> str:
        """Names the input in HubSpot's answer: the first event's id, so that a person can follow it."""
        return str(self.events[0].event_id)

    def as_input(self) -> dict[str, object]:
        return {
            "id": self.key,
            "idProperty": self.key_property,
            "objectWriteTraceId": self.trace_id,
            "properties": self.properties,
        }


@dataclass(frozen=True, slots=True)
class Translation:
    """`rejected` holds the events that can never be sent, by their `id`."""

    upserts: list[ContactUpsert]
    rejected: dict[int, Rejected]


def translate(events: Iterable[Event], catalog: Catalog, newer: Iterable[Event] = ()) -> Translation:
    """Merge each subject's events into one upsert; an event that cannot be read is rejected alone.

    `newer` are delivered events that a retried one precedes. They are not carried again, but what they set stands.
    """
    rejected: dict[int, Rejected] = {}
    carried: dict[str, list[Event]] = {}
    properties: dict[str, dict[str, str]] = {}
    known = list(newer)
    known_ids = {it.id for it in known}
    for event in sorted([*events, *known], key=lambda it: it.id):
        try:
            its_properties = catalog.read(event).contact_properties()
        except UnreadableEvent as error:
            if event.id not in known_ids:
                rejected[event.id] = Rejected(str(error))
            continue
        if event.id not in known_ids:
            carried.setdefault(event.subject, []).append(event)
        properties.setdefault(event.subject, {}).update(its_properties)
    upserts = [_upsert(tuple(carried[subject]), properties[subject], catalog) for subject in carried]
    return Translation(upserts, rejected)


def requests(upserts: Sequence[ContactUpsert]) -> list[list[ContactUpsert]]:
    """Divide upserts into requests that HubSpot accepts: one key property each, no key twice, at most 100 inputs."""
    batches: list[list[ContactUpsert]] = []
    for upsert in upserts:
        batch = next((it for it in batches if _fits(upsert, it)), None)
        if batch is None:
            batches.append([upsert])
        else:
            batch.append(upsert)
    return batches


def _upsert(events: tuple[Event, ...], properties: dict[str, str], catalog: Catalog) -> ContactUpsert:
    key = catalog.email if catalog.email.name in properties else catalog.key
    return ContactUpsert(key.name, properties[key.name], properties, events)


def _fits(upsert: ContactUpsert, batch: list[ContactUpsert]) -> bool:
    return (
        len(batch) < INPUTS_MAX
        and batch[0].key_property == upsert.key_property
        and all(it.key != upsert.key for it in batch)
    )
