"""Custom events: their definitions, and the occurrences sent. Pure state, no HTTP."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from pydantic import Field

from hubspot_sandbox import errors
from hubspot_sandbox.contacts import Contact
from hubspot_sandbox.switches import Switches
from hubspot_sandbox.values import InvalidValue, ValueRule, stored_form
from hubspot_sandbox.wire import Body, JsonObject, Option, iso

SEND_INPUTS_MAX = 500
DEFINITIONS_MAX = 500
PROPERTIES_MAX = 50
NAME_LENGTH_MAX = 50
VALUE_LENGTH_MAX = 256
URL_LENGTH_MAX = 1024
UUID_KEPT_SECONDS = 365 * 86_400
OCCURRENCES_KEPT = 10_000

_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_URL_PROPERTIES = frozenset({"hs_url", "hs_referrer", "url", "referrer"})
_INSTANT = ValueRule("datetime")


class EventProperty(Body):
    label: str
    type: Literal["string", "number", "enumeration", "datetime"]
    name: str | None = None
    description: str = ""
    options: list[Option] = Field(default_factory=list)


class EventPropertyPatch(Body):
    label: str | None = None
    description: str | None = None
    options: list[Option] | None = None


class EventDefinitionCreate(Body):
    label: str
    include_default_properties: bool
    property_definitions: list[EventProperty]
    name: str | None = None
    description: str = ""
    primary_object: Literal["CONTACT", "COMPANY", "DEAL", "TICKET"] = "CONTACT"


class EventDefinitionPatch(Body):
    label: str | None = None
    description: str | None = None


class EventSend(Body):
    event_name: str
    properties: dict[str, str]
    object_id: str | None = None
    email: str | None = None
    utk: str | None = None
    occurred_at: str | int | None = None
    uuid: str | None = None


class BatchEventSend(Body):
    inputs: list[EventSend]


@dataclass(slots=True, eq=False)
class EventDefinition:
    id: int
    portal_id: int
    name: str
    label: str
    description: str
    primary_object: str
    created_at: float
    updated_at: float
    properties: dict[str, EventProperty]

    @property
    def fully_qualified_name(self) -> str:
        return f"pe{self.portal_id}_{self.name}"

    def as_json(self) -> JsonObject:
        return {
            "id": str(self.id),
            "name": self.name,
            "fullyQualifiedName": self.fully_qualified_name,
            "objectTypeId": f"6-{self.id}",
            "labels": {"singular": self.label},
            "description": self.description,
            "primaryObject": self.primary_object,
            "archived": False,
            "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at),
            "properties": [{**it.model_dump(by_alias=True), "name": name} for name, it in self.properties.items()],
        }


@dataclass(frozen=True, slots=True)
class Occurrence:
    id: str
    event: str
    object_id: str
    occurred_at: str
    properties: dict[str, str]

    def as_json(self) -> JsonObject:
        return {
            "id": self.id,
            "eventType": self.event,
            "objectType": "CONTACT",
            "objectId": self.object_id,
            "occurredAt": self.occurred_at,
            "properties": self.properties,
        }


@dataclass(slots=True)
class Events:
    portal_id: int
    new_uuid: Callable[[], str]
    occurrences: list[Occurrence] = field(default_factory=list)
    _definitions: dict[str, EventDefinition] = field(default_factory=dict)
    _seen: dict[tuple[str, str], float] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=lambda: count(7001))

    def definitions(self) -> list[EventDefinition]:
        return list(self._definitions.values())

    def get(self, name: str) -> EventDefinition:
        """By its own or its fully qualified name."""
        definition = self._definitions.get(name.removeprefix(f"pe{self.portal_id}_"))
        if definition is None:
            raise errors.not_found(f"No event definition {name}")
        return definition

    def define(self, wanted: EventDefinitionCreate, now: float) -> EventDefinition:
        name = _name(wanted.name or _name_of(wanted.label))
        if name in self._definitions:
            raise errors.event_exists(name)
        if len(self._definitions) >= DEFINITIONS_MAX:
            raise errors.validation_error(f"An account has at most {DEFINITIONS_MAX} event definitions")
        properties = {_name(it.name or _name_of(it.label)): it for it in wanted.property_definitions}
        definition = EventDefinition(
            next(self._ids),
            self.portal_id,
            name,
            _label(wanted.label),
            wanted.description,
            wanted.primary_object,
            now,
            now,
            properties,
        )
        self._definitions[name] = definition
        return definition

    def delete(self, name: str) -> None:
        del self._definitions[self.get(name).name]

    def check(self, wanted: EventSend) -> None:
        """Refuse what HubSpot refuses before it looks for the contact."""
        self.get(wanted.event_name)
        if not (wanted.object_id or wanted.email or wanted.utk):
            raise errors.required_fields_missing(["objectId"])
        if len(wanted.properties) > PROPERTIES_MAX:
            raise errors.validation_error(f"An occurrence has at most {PROPERTIES_MAX} properties")
        for name, value in wanted.properties.items():
            if len(value) > (URL_LENGTH_MAX if name in _URL_PROPERTIES else VALUE_LENGTH_MAX):
                raise errors.validation_error(f"The value of {name} is too long")
        _instant(wanted.occurred_at)

    def is_duplicate(self, wanted: EventSend, now: float) -> bool:
        """Whether an occurrence of this event had this uuid within the last year; the uuid is remembered."""
        if not wanted.uuid:
            return False
        key = (self.get(wanted.event_name).name, wanted.uuid)
        seen_at = self._seen.get(key)
        if seen_at is not None and now - seen_at < UUID_KEPT_SECONDS:
            return True
        self._seen[key] = now
        return False

    def record(self, wanted: EventSend, contact: Contact, now: float) -> None:
        occurred_at = _instant(wanted.occurred_at) or iso(now)
        event = self.get(wanted.event_name).fully_qualified_name
        self.occurrences.append(
            Occurrence(wanted.uuid or self.new_uuid(), event, str(contact.id), occurred_at, dict(wanted.properties))
        )
        del self.occurrences[:-OCCURRENCES_KEPT]


def refused_duplicate(switches: Switches) -> None:
    if switches.duplicate_event == "refused":
        raise errors.validation_error("An event with this uuid was accepted before")


def check_count(inputs: Sequence[EventSend]) -> None:
    if not 1 <= len(inputs) <= SEND_INPUTS_MAX:
        raise errors.batch_size(len(inputs), SEND_INPUTS_MAX)


def add_property(definition: EventDefinition, wanted: EventProperty, now: float) -> None:
    name = _name(wanted.name or _name_of(wanted.label))
    if name in definition.properties:
        raise errors.property_exists(name)
    definition.properties[name] = wanted
    definition.updated_at = now


def _instant(value: str | int | None) -> str | None:
    if value is None:
        return None
    try:
        return stored_form(_INSTANT, str(value)) or None
    except InvalidValue as refusal:
        raise errors.validation_error(refusal.message) from refusal


def _name_of(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")


def _name(text: str) -> str:
    name = text.lower()
    if len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name):
        raise errors.validation_error(f"{text!r} is no name for an event or its properties")
    return name


def _label(text: str) -> str:
    if not 1 <= len(text) <= NAME_LENGTH_MAX:
        raise errors.validation_error(f"A label has 1 to {NAME_LENGTH_MAX} characters")
    return text
