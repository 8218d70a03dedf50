"""Lifecycle events and the contact properties they set: declared once, used to validate, translate and provision."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from hubspot_sync.contact_property import (
    EMAIL,
    TEXT_LENGTH_MAX,
    ContactProperty,
    PropertyGroup,
    PropertyType,
    UnwritableValue,
    writer_of,
    written,
)
from hubspot_sync.field_types import EmailAddress, Instant, Reference, WholeNumber, is_blank, trimmed
from hubspot_sync.json_text import read_json
from hubspot_sync.plain_payload import PlainFields, plain_fields_of
from sqlalchemy_outbox.model import Event

__all__ = [
    "DROPPED",
    "EMAIL",
    "TEXT_LENGTH_MAX",
    "Catalog",
    "ContactProperty",
    "EmailAddress",
    "Instant",
    "LifecycleEvent",
    "PropertyGroup",
    "PropertyType",
    "Reference",
    "UnreadableEvent",
    "UnwritableValue",
    "WholeNumber",
    "written",
]

# Where a stored payload names the fields that it has lost, such as a person's address.
DROPPED = "_dropped"


class LifecycleEvent(BaseModel):
    """Subclass it for each event: `event_type`, and fields annotated with the properties they set.

    Later payloads may have more fields, and every payload ever stored must stay readable: what is unknown is ignored.
    `sets` are properties whose value the event's mere existence gives.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    event_type: ClassVar[str]
    sets: ClassVar[Mapping[ContactProperty, bool | int | str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_blank_as_absent(cls, payload: object) -> object:
        """A text without a word, in a field that may be missing, says as much as if it were."""
        if not isinstance(payload, dict):
            return payload
        blank = [name for name in _plan_of(cls).optional_fields if is_blank(payload.get(name))]
        return {name: value for name, value in payload.items() if name not in blank} if blank else payload

    def contact_properties(self) -> dict[str, str]:
        """The properties this event sets, as HubSpot wants them written; an absent value is left out.

        An empty string would clear the property. Raises UnwritableValue for what HubSpot could not take.
        """
        properties = {property_.name: written(property_, value) for property_, value in self.sets.items()}
        values = self.__dict__
        for name, property_name, write in _plan_of(type(self)).writers:
            value = values[name]
            if value is not None and value != "":
                properties[property_name] = write(value)
        return properties


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an event class says of contacts, read from its annotations once.

    `fields` set properties, in the order of declaration; `writers` are the same with the property's name and how its
    values are written. `optional_fields` are the names in a payload of fields that may be missing. `plain_fields` is
    None where only the class itself can read a payload.
    """

    fields: tuple[tuple[str, ContactProperty], ...]
    writers: tuple[tuple[str, str, Callable[[object], str]], ...]
    optional_fields: tuple[str, ...]
    plain_fields: PlainFields | None


@cache
def _plan_of(event: type[LifecycleEvent]) -> _Plan:
    fields = event.model_fields.items()
    setting = [(name, said) for name, info in fields for said in info.metadata if isinstance(said, ContactProperty)]
    return _Plan(
        tuple(setting),
        tuple((name, property_.name, writer_of(property_)) for name, property_ in setting),
        tuple(_name_in_payload(name, info) for name, info in fields if not info.is_required()),
        plain_fields_of(event, LifecycleEvent, event.sets),
    )


def _name_in_payload(name: str, info: FieldInfo) -> str:
    return info.validation_alias if isinstance(info.validation_alias, str) else name


class UnreadableEvent(Exception):
    """The payload does not fit its event type; a repeat would not mend that."""


@dataclass(frozen=True)
class Catalog:
    """All lifecycle events of an application, and how their contacts are found.

    `subject_field` names the field that says who an event is about; the property it sets is unique in HubSpot, and the
    key of contacts without an email.
    """

    events: tuple[type[LifecycleEvent], ...]
    subject_field: str
    email_field: str
    group: PropertyGroup
    _by_type: dict[str, type[LifecycleEvent]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_type.update({event.event_type: event for event in self.events})

    @property
    def types(self) -> list[str]:
        return list(self._by_type)

    @cached_property
    def properties(self) -> list[ContactProperty]:
        """Every property that some event sets, each once, in the order of declaration."""
        found: dict[str, ContactProperty] = {}
        for event in self.events:
            for property_ in (*event.sets, *(it for _, it in _plan_of(event).fields)):
                found.setdefault(property_.name, property_)
        return list(found.values())

    @cached_property
    def personal_properties(self) -> list[str]:
        """The properties whose values name a person."""
        return [property_.name for property_ in self.properties if property_.is_personal]

    @cached_property
    def personal_names(self) -> frozenset[str]:
        """The fields and the properties whose values name a person."""
        fields = ((name, it) for event in self.events for name, it in _plan_of(event).fields)
        return frozenset(name for field, it in fields if it.is_personal for name in (field, it.name))

    @cached_property
    def key(self) -> ContactProperty:
        return self._property_of(self.subject_field)

    @cached_property
    def email(self) -> ContactProperty:
        return self._property_of(self.email_field)

    def subject_of(self, payload: object) -> str | None:
        """Who the payload is about, written as in HubSpot; None when it does not say."""
        subject = payload.get(self.subject_field) if isinstance(payload, Mapping) else None
        return str(trimmed(subject)) if isinstance(subject, str) else None

    def objection_to(self, event_type: str, payload: object) -> str | None:
        """Why this event could never be delivered, in words; None when it can."""
        try:
            # As it will be read from the table: an Enum, say, is a text or a number then, or is refused by `enqueue`.
            self._properties(event_type, json.loads(json.dumps(payload)))
        except UnreadableEvent as error:
            return str(error)
        except (TypeError, ValueError, RecursionError):
            # No JSON, which `enqueue` says in its words.
            return None
        return None

    def properties_of(self, event: Event) -> dict[str, str]:
        """Return what the stored event sets, as HubSpot wants it written, or raise UnreadableEvent."""
        try:
            payload = read_json(event.payload)
        except (ValueError, RecursionError) as error:
            raise UnreadableEvent(f"payload is no JSON: {error}") from None
        return self._properties(event.event_type, payload)

    def said_by(self, event: Event) -> dict[str, str | None]:
        """Like `properties_of`, for who must not undo it: None where the payload's value was dropped since."""
        said: dict[str, str | None] = {**self.properties_of(event)}
        dropped = read_json(event.payload).get(DROPPED, [])
        fields = _plan_of(self._by_type[event.event_type]).fields
        return said | {property_.name: None for name, property_ in fields if name in dropped}

    def _properties(self, event_type: str, payload: object) -> dict[str, str]:
        if (model := self._by_type.get(event_type)) is None:
            raise UnreadableEvent(f"unknown event type {event_type!r}; known are {', '.join(self._by_type)}")
        plain_fields = _plan_of(model).plain_fields
        if plain_fields is not None and (properties := plain_fields.properties_of(payload)) is not None:
            return properties
        try:
            return model.model_validate(payload).contact_properties()
        except ValidationError as error:
            raise UnreadableEvent(_in_words(event_type, error)) from None
        except UnwritableValue as error:
            raise UnreadableEvent(f"{event_type} cannot be delivered: {error}") from None

    def _property_of(self, field_name: str) -> ContactProperty:
        return next(it for name, it in _plan_of(self.events[0]).fields if name == field_name)


def _in_words(event_type: str, error: ValidationError) -> str:
    problems = (
        f"{'.'.join(map(str, detail['loc'])) or 'payload'}: {detail['msg']}"
        for detail in error.errors(include_url=False, include_input=False)
    )
    return f"{event_type} cannot be delivered: {'; '.join(problems)}"
