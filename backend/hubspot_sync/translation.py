"""Events become contact upserts: one per subject, later values over earlier ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from hubspot_sync.event import Catalog, UnreadableEvent
from outbox.model import Event
from outbox.outcome import Rejected

# HubSpot's own limit on the inputs of a batch.
INPUTS_MAX = 100


@dataclass(frozen=True, slots=True)
class Statement:
    """What one event says of its subject's contact; `is_carried` unless it was delivered before."""

    event: Event
    properties: dict[str, str]
    is_carried: bool = True


@dataclass(frozen=True, slots=True)
class ContactUpsert:
    """One input: the contact whose `key_property` is `key` gets `properties`, from statements of one subject, in order.

    `conflicts` counts how often another contact was in its way on this delivery, `holder_of_our_id` is the record id of
    the one that has our id, and `is_waiting` says that it comes again once a concurrent write has settled.
    """

    catalog: Catalog = field(repr=False)
    statements: tuple[Statement, ...] = field(repr=False)
    key_property: str
    key: str = field(repr=False)
    properties: dict[str, str] = field(repr=False)
    conflicts: int = 0
    holder_of_our_id: str | None = None
    is_waiting: bool = False

    @classmethod
    def of(cls, statements: Sequence[Statement], catalog: Catalog) -> Self:
        properties: dict[str, str] = {}
        for statement in statements:
            properties |= statement.properties
        key = catalog.email.name if catalog.email.name in properties else catalog.key.name
        return cls(catalog, tuple(statements), key, properties[key], properties)

    @property
    def events(self) -> list[Event]:
        """The events it carries, in order; at least one."""
        return [it.event for it in self.statements if it.is_carried]

    @property
    def subject(self) -> str:
        return self.statements[0].event.subject

    @property
    def trace_id(self) -> str:
        """Names the input in HubSpot's answer: the first event's id, so that a person can follow it."""
        return str(self.events[0].event_id)

    @property
    def unique_values(self) -> dict[str, str]:
        """What names its contact, by property: our id, and the key."""
        return {self.catalog.key.name: self.properties[self.catalog.key.name], self.key_property: self.key}

    @property
    def personal_values(self) -> list[str]:
        """What no log may hold."""
        names = {it.name for it in self.catalog.properties if it.is_personal}
        return [value for name, value in self.properties.items() if name in names]

    def as_input(self) -> dict[str, object]:
        return {
            "id": self.key,
            "idProperty": self.key_property,
            "objectWriteTraceId": self.trace_id,
            "properties": self.properties,
        }

    def halves(self) -> tuple[ContactUpsert, ContactUpsert]:
        """The same in two inputs, the earlier events first; what delivered events said stands in both."""
        events = self.events
        second = {it.id for it in events[len(events) // 2 :]}
        carried_first = [it for it in self.statements if not (it.is_carried and it.event.id in second)]
        carried_second = [it for it in self.statements if not it.is_carried or it.event.id in second]
        return self.of(carried_first, self.catalog), self.of(carried_second, self.catalog)

    def after_waiting(self) -> ContactUpsert:
        """The same, known to have met a conflict that did not pass."""
        return replace(self, conflicts=self.conflicts + 1)

    def by_our_id(self) -> ContactUpsert:
        """Addressed to the contact that has our id, with the email among its properties."""
        key = self.catalog.key.name
        return replace(self, key_property=key, key=self.properties[key])

    def without_email(self) -> ContactUpsert:
        """Leaves the contact's primary address as it is."""
        properties = {name: value for name, value in self.properties.items() if name != self.catalog.email.name}
        return replace(self, properties=properties)


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
    statements: dict[str, list[Statement]] = {}
    known = list(newer)
    known_ids = {it.id for it in known}
    for event in sorted([*events, *known], key=lambda it: it.id):
        is_carried = event.id not in known_ids
        try:
            statement = Statement(event, catalog.properties_of(event), is_carried)
        except UnreadableEvent as error:
            if is_carried:
                rejected[event.id] = Rejected(str(error))
            continue
        statements.setdefault(event.subject, []).append(statement)
    upserts = [ContactUpsert.of(said, catalog) for said in statements.values() if any(it.is_carried for it in said)]
    return Translation(upserts, rejected)


def requests(upserts: Iterable[ContactUpsert], inputs_max: int = INPUTS_MAX) -> list[list[ContactUpsert]]:
    """Divide upserts into requests that HubSpot accepts: one key property each, no key twice, at most 100 inputs."""
    batches: list[list[ContactUpsert]] = []
    for upsert in upserts:
        batch = next((it for it in batches if len(it) < inputs_max and _fits(upsert, it)), None)
        if batch is None:
            batches.append([upsert])
        else:
            batch.append(upsert)
    return batches


def _fits(upsert: ContactUpsert, batch: list[ContactUpsert]) -> bool:
    return batch[0].key_property == upsert.key_property and all(it.key != upsert.key for it in batch)
