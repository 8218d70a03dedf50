"""Events become contact upserts: one per subject, later values over earlier ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Self

from hubspot_sync.event import Catalog, UnreadableEvent
from outbox.model import Event
from outbox.outcome import Postponed, Rejected

# HubSpot's own limit on the inputs of a batch.
INPUTS_MAX = 100


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one event says of its subject's contact. None: what the contact has of this property is left alone.

    `is_carried`: it is delivered with the upsert. Others are only heeded.
    """

    event: Event
    properties: Mapping[str, str | None]
    is_carried: bool = True

    def as_left_alone(self) -> Contribution:
        """Heeded, because it may stand on the contact already."""
        return Contribution(self.event, dict.fromkeys(self.properties), is_carried=False)

    def without(self, names: AbstractSet[str]) -> Contribution:
        """Says nothing of these properties."""
        return replace(self, properties={name: self.properties[name] for name in self.properties.keys() - names})

    @property
    def sets(self) -> list[str]:
        return [name for name, value in self.properties.items() if value is not None]


@dataclass(frozen=True, slots=True)
class ContactUpsert:
    """One input: the contact whose `key_property` is `key` gets `properties`, as one subject's events say, in order.

    `conflicts` counts how often another contact was in its way on this delivery, `holder_of_our_id` is the record id of
    the one that has our id, and `is_waiting` says that it comes again once a concurrent write has settled.
    """

    catalog: Catalog = field(repr=False)
    contributions: tuple[Contribution, ...] = field(repr=False)
    key_property: str
    key: str = field(repr=False)
    properties: dict[str, str] = field(repr=False)
    conflicts: int = 0
    holder_of_our_id: str | None = None
    is_waiting: bool = False

    @classmethod
    def of(cls, contributions: Iterable[Contribution], catalog: Catalog) -> Self:
        in_order = tuple(sorted(contributions, key=lambda contribution: contribution.event.id))
        merged: dict[str, str | None] = {}
        ids: list[str] = []
        for contribution in in_order:
            merged |= contribution.properties
            # All of them name the same subject; what is left alone names it by None.
            ids += [id_ for id_ in [contribution.properties.get(catalog.key.name)] if id_ is not None]
        properties = {name: value for name, value in merged.items() if value is not None} | {catalog.key.name: ids[-1]}
        key_property = catalog.email.name if catalog.email.name in properties else catalog.key.name
        return cls(catalog, in_order, key_property, properties[key_property], properties)

    @property
    def events(self) -> list[Event]:
        """The events it carries, in order; at least one."""
        return [contribution.event for contribution in self.carried]

    @property
    def carried(self) -> list[Contribution]:
        return [contribution for contribution in self.contributions if contribution.is_carried]

    @property
    def heeded(self) -> list[Contribution]:
        return [contribution for contribution in self.contributions if not contribution.is_carried]

    @property
    def subject(self) -> str:
        return self.contributions[0].event.subject

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
        """The same in two inputs, the earlier events first; what is only heeded stands in both.

        The first heeds what is in doubt of the second.
        """
        middle = len(self.carried) // 2
        return self.beginning(middle), self.of([*self.carried[middle:], *self.heeded], self.catalog)

    def beginning(self, count: int) -> ContactUpsert:
        """Its first events, so many of them, heeding what is in doubt of the others."""
        in_doubt = [later.as_left_alone() for later in self.carried[count:] if later.event.in_doubt_at is not None]
        return self.of([*self.carried[:count], *in_doubt, *self.heeded], self.catalog)

    def heeding_none_of(self, names: AbstractSet[str]) -> ContactUpsert:
        """The same, not repeating what newer events said of these properties; itself if they said nothing of them."""
        if not any(names & heard.properties.keys() for heard in self.heeded):
            return self
        return self.of([*self.carried, *(heard.without(names) for heard in self.heeded)], self.catalog)

    def beside(self, newer: Iterable[Contribution]) -> ContactUpsert:
        """The same, heeding what newer events have said."""
        return self.of([*self.contributions, *newer], self.catalog)

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
    """`not_sent` holds what becomes of the events that are in no upsert, by their `id`."""

    upserts: list[ContactUpsert]
    not_sent: dict[int, Rejected | Postponed]


def translate(events: Iterable[Event], catalog: Catalog) -> Translation:
    """Merge each subject's events into one upsert; an event that cannot be read is rejected alone."""
    rejected: dict[int, Rejected | Postponed] = {}
    contributions: dict[str, list[Contribution]] = {}
    for event in events:
        try:
            contribution = Contribution(event, catalog.properties_of(event))
        except UnreadableEvent as error:
            rejected[event.id] = Rejected(str(error))
            continue
        contributions.setdefault(event.subject, []).append(contribution)
    return Translation([ContactUpsert.of(said, catalog) for said in contributions.values()], rejected)


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
