"""Events become contact upserts: one per subject, later values over earlier ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Self, cast

from hubspot_sync.event import Catalog, UnreadableEvent
from hubspot_sync.moves import Move, MoveType
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Postponed, Rejected

if TYPE_CHECKING:
    from hubspot_sync.classification import Contested

# HubSpot's own limit on the inputs of a batch.
INPUTS_MAX = 100
_event_id = attrgetter("event.id")


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one event says of its subject's contact. None: what the contact has of this property is left alone.

    `is_carried`: it is delivered with the upsert. Others are only considered. `then` is left to be done once it is.
    """

    event: Event
    properties: Mapping[str, str | None]
    is_carried: bool = True
    move: Move | None = None
    then: tuple[Move, ...] = ()

    @property
    def is_release(self) -> bool:
        return self.move is not None and self.move.type is MoveType.RELEASE

    def as_left_alone(self) -> Contribution:
        """Heeded, because it may stand on the contact already."""
        return Contribution(self.event, dict.fromkeys(self.properties), is_carried=False)

    def without(self, names: AbstractSet[str]) -> Contribution:
        """Says nothing of these properties."""
        return replace(self, properties={name: said for name, said in self.properties.items() if name not in names})

    @property
    def sets(self) -> list[str]:
        return [name for name, value in self.properties.items() if value is not None]


# Not frozen, which would take as long for each of its fields as for all of them now; nothing changes one all the same.
@dataclass(slots=True)
class ContactUpsert:
    """One input: the contact whose `key_property` is `key` gets `properties`, as one subject's events say, in order.

    It is addressed by our id, or by the email of a contact that nobody of ours has yet. `conflicts` counts how often
    another contact was in its way on this delivery, `contested` says why the contact that has its email is to be looked
    at first, `was_looked_at` that this is done, `holder_of_email` is that contact's record id, and `is_waiting` says
    that it comes again once a concurrent write has settled.
    """

    catalog: Catalog = field(repr=False)
    contributions: tuple[Contribution, ...] = field(repr=False)
    key_property: str
    key: str = field(repr=False)
    properties: dict[str, str] = field(repr=False)
    conflicts: int = 0
    contested: Contested | None = None
    was_looked_at: bool = False
    holder_of_email: str | None = None
    is_waiting: bool = False
    # What is asked of each input again and again, made once: the contributions that it carries, their events, in order
    # and at least one, and what names the input in HubSpot's answer: the first event's id, so that a person can follow
    # it.
    carried: tuple[Contribution, ...] = field(init=False, repr=False, compare=False)
    events: tuple[Event, ...] = field(init=False, repr=False, compare=False)
    subject: str = field(init=False, compare=False)
    trace_id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.carried = tuple([contribution for contribution in self.contributions if contribution.is_carried])
        self.events = tuple([contribution.event for contribution in self.carried])
        self.subject = self.events[0].subject
        self.trace_id = str(self.events[0].event_id)

    @classmethod
    def of(cls, contributions: Iterable[Contribution], catalog: Catalog) -> Self:
        in_order = tuple(sorted(contributions, key=_event_id))
        key = catalog.key.name
        if len(in_order) == 1 and None not in in_order[0].properties.values():
            properties = cast("dict[str, str]", in_order[0].properties)
            return cls(catalog, in_order, key, properties[key], properties)
        merged: dict[str, str | None] = {}
        ids: list[str] = []
        # An address that is taken away is taken by any that comes in its place.
        for contribution in sorted(in_order, key=lambda said: not said.is_release):
            merged |= contribution.properties
            # All of them name the same subject; what is left alone names it by None.
            ids += [id_ for id_ in [contribution.properties.get(key)] if id_ is not None]
        properties = {name: value for name, value in merged.items() if value is not None} | {key: ids[-1]}
        return cls(catalog, in_order, key, ids[-1], properties)

    @property
    def considered(self) -> list[Contribution]:
        return [contribution for contribution in self.contributions if not contribution.is_carried]

    @property
    def is_moving(self) -> bool:
        """Whether any of its events is the move of an address."""
        return any(contribution.move is not None for contribution in self.contributions)

    @property
    def personal_values(self) -> list[str]:
        """What no log may hold."""
        return [self.properties[name] for name in self.catalog.personal_properties if name in self.properties]

    def as_input(self) -> dict[str, object]:
        return {
            "id": self.key,
            "idProperty": self.key_property,
            "objectWriteTraceId": self.trace_id,
            "properties": self.properties,
        }

    def halves(self) -> tuple[ContactUpsert, ContactUpsert]:
        """The same in two inputs, the earlier events first; what is only considered stands in both.

        They are for what HubSpot has refused for good, so no doubt is left whether it was applied before.
        """
        middle = len(self.carried) // 2
        first, second = self.carried[:middle], self.carried[middle:]
        return self.of([*first, *self.considered], self.catalog), self.of([*second, *self.considered], self.catalog)

    def beginning(self, count: int) -> ContactUpsert:
        """Its first events, so many of them, considering what is in doubt of the others."""
        in_doubt = [later.as_left_alone() for later in self.carried[count:] if later.event.in_doubt_at is not None]
        return self.of([*self.carried[:count], *in_doubt, *self.considered], self.catalog)

    def considering_none_of(self, names: AbstractSet[str]) -> ContactUpsert:
        """The same, not repeating what newer events said of these properties; itself if they said nothing of them."""
        if not any(names & heard.properties.keys() for heard in self.considered):
            return self
        return self.of([*self.carried, *(heard.without(names) for heard in self.considered)], self.catalog)

    def beside(self, newer: Iterable[Contribution]) -> ContactUpsert:
        """The same, considering what newer events have said."""
        return self.of([*self.contributions, *newer], self.catalog)

    def after_waiting(self) -> ContactUpsert:
        """The same, known to have met a conflict that did not pass."""
        return replace(self, conflicts=self.conflicts + 1)

    @property
    def says_anything(self) -> bool:
        """False of moves that nothing is left of."""
        return len(self.properties) > 1 or any(contribution.move is None for contribution in self.carried)

    @property
    def email(self) -> str | None:
        """The address that it gives its contact; empty where it takes that away."""
        return self.properties.get(self.catalog.email.name)

    def by_email(self) -> ContactUpsert:
        """Addressed to the contact that has the email, which gets our id."""
        return replace(self, key_property=self.catalog.email.name, key=self.properties[self.catalog.email.name])

    def by_our_id(self) -> ContactUpsert:
        key = self.catalog.key.name
        return replace(self, key_property=key, key=self.properties[key])

    def without_email(self) -> ContactUpsert:
        """Gives its contact no address."""
        name = self.catalog.email.name
        contributions = [said if said.is_release else said.without({name}) for said in self.contributions]
        without = self.of(contributions, self.catalog)
        return replace(
            self, contributions=without.contributions, properties=without.properties, contested=None, is_waiting=False
        )

    def claim_of_email(self) -> Contribution:
        """The contribution whose email it is."""
        name = self.catalog.email.name
        return [contribution for contribution in self.contributions if contribution.properties.get(name)][-1]

    def replacing(self, changed: Contribution) -> ContactUpsert:
        """The same with what another look at an event has brought."""
        others = [said for said in self.contributions if said.event.id != changed.event.id]
        return self.of([*others, changed], self.catalog)

    def leaving(self, move: Move) -> ContactUpsert:
        """The same, with a move to be left by the last event that it carries."""
        last = [contribution for contribution in self.contributions if contribution.is_carried][-1]
        changed = replace(last, then=(*last.then, move))
        contributions = tuple(changed if said is last else said for said in self.contributions)
        return replace(self, contributions=contributions)


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
            contribution = _contribution(event, catalog)
        except UnreadableEvent as error:
            rejected[event.id] = Rejected(str(error))
            continue
        contributions.setdefault(event.subject, []).append(contribution)
    return Translation([ContactUpsert.of(said, catalog) for said in contributions.values()], rejected)


def _contribution(event: Event, catalog: Catalog) -> Contribution:
    """A release takes the address away; whether it is there to be taken is for `addressing` to see."""
    move = Move.of(event, catalog)
    if move is None:
        return Contribution(event, catalog.properties_of(event))
    address = move.address if move.type is MoveType.GRANT else ""
    return Contribution(event, {catalog.key.name: event.subject, catalog.email.name: address}, move=move)


def halves_of(upserts: Sequence[ContactUpsert]) -> tuple[Sequence[ContactUpsert], Sequence[ContactUpsert]]:
    middle = len(upserts) // 2
    return upserts[:middle], upserts[middle:]


def requests(upserts: Iterable[ContactUpsert], inputs_max: int = INPUTS_MAX) -> list[list[ContactUpsert]]:
    """Divide upserts into requests that HubSpot accepts: one key property each, no key twice, at most 100 inputs."""
    divided: list[_Request] = []
    for upsert in upserts:
        for request in divided:
            if len(request.upserts) < inputs_max and request.takes(upsert):
                break
        else:
            divided.append(request := _Request(upsert.key_property))
            request.takes(upsert)
    return [request.upserts for request in divided]


@dataclass(frozen=True, slots=True)
class _Request:
    """Inputs that may travel together."""

    key_property: str
    upserts: list[ContactUpsert] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set)
    _emails: set[str] = field(default_factory=set)

    def takes(self, upsert: ContactUpsert) -> bool:
        """Take it along if there is room; of two who claim one address, the first has it when the second comes."""
        email = upsert.email
        if upsert.key_property != self.key_property or upsert.key in self._keys or (email and email in self._emails):
            return False
        self.upserts.append(upsert)
        self._keys.add(upsert.key)
        if email:
            self._emails.add(email)
        return True
