"""Lifecycle events and the contact properties they set: declared once, used to validate, translate and provision."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache, cached_property
from typing import Annotated, ClassVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from sqlalchemy_outbox.model import Event


class PropertyType(StrEnum):
    """HubSpot's property types, as far as we set them."""

    STRING = "string"
    NUMBER = "number"
    DATE = "date"
    DATETIME = "datetime"
    BOOL = "bool"
    ENUMERATION = "enumeration"


@dataclass(frozen=True, slots=True)
class ContactProperty:
    """A property of HubSpot contacts. Annotate an event's field with it, and the field sets it.

    `is_standard`: every account has it, so it is never provisioned. `is_unique` can only be chosen at creation.
    `is_personal`: its values name a person, so they are kept out of logs and errors.
    """

    name: str
    label: str
    type: PropertyType
    options: tuple[str, ...] = ()
    is_unique: bool = False
    is_standard: bool = False
    is_personal: bool = False


@dataclass(frozen=True, slots=True)
class PropertyGroup:
    """Where HubSpot shows the properties."""

    name: str
    label: str


# Blanks, and what is as invisible and comes along when text is copied: a zero-width space, a byte order mark.
_BLANK = r"[\s\u180e\u200b-\u200d\u2060\ufeff]+"
_BLANK_AROUND = re.compile(rf"\A{_BLANK}|{_BLANK}\Z")


def _trimmed(value: object) -> object:
    """The one rule of trimming, for subjects and properties: pydantic's own leaves U+001C to U+001F, which HubSpot's
    key would then have and the subject would not.
    """
    return _BLANK_AROUND.sub("", value) if isinstance(value, str) else value


def _is_blank(value: object) -> bool:
    # Most texts show by their first letter that they are none.
    return isinstance(value, str) and not value[:1].isalnum() and _trimmed(value) == ""


def _has_no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text


_EMAIL_ADDRESS = re.compile(r"[^@\s\x00]+@[^@\s\x00]+\.[^@\s\x00]+")


def _may_be_an_email_address(text: str) -> str:
    if not _EMAIL_ADDRESS.fullmatch(text):
        raise ValueError("is no email address")
    return text


# Without an offset too: that it is missing is told in pydantic's words.
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+-]\d\d(:?\d\d)?)?", re.ASCII)

_WHOLE_HOURS = re.compile(r":\d\d([.,]\d+)?[+-]\d\d\Z", re.ASCII)


def _may_be_an_instant(value: object) -> object:
    """Numbers and digits, which pydantic takes for seconds or milliseconds since 1970, are no instants here."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and _INSTANT.fullmatch(value)):
        raise ValueError("is no instant in ISO 8601, like 2026-11-24T18:00:00Z")
    # PostgreSQL writes an offset of whole hours without minutes, which pydantic does not read.
    return f"{value}:00" if isinstance(value, str) and _WHOLE_HOURS.search(value) else value


def _is_a_number(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("is no number")
    return value


TEXT_LENGTH_MAX = 65_536
# Where a stored payload names the fields that it has lost, such as a person's address.
DROPPED = "_dropped"

# HubSpot stores longer texts; what identifies things is far shorter.
Reference = Annotated[
    str, StringConstraints(min_length=1, max_length=255), BeforeValidator(_trimmed), AfterValidator(_has_no_nul)
]
# Only what cannot be an address is refused here: HubSpot is the judge of the rest.
EmailAddress = Annotated[
    str,
    StringConstraints(to_lower=True, max_length=254),
    BeforeValidator(_trimmed),
    AfterValidator(_may_be_an_email_address),
]
Instant = Annotated[AwareDatetime, BeforeValidator(_may_be_an_instant)]
# A JSON number without a fraction: 12 and 12.0, but neither "12" nor true.
WholeNumber = Annotated[int, BeforeValidator(_is_a_number)]


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
        blank = [name for name in _plan_of(cls).optional_fields if _is_blank(payload.get(name))]
        return {name: value for name, value in payload.items() if name not in blank} if blank else payload

    def contact_properties(self) -> dict[str, str]:
        """The properties this event sets, as HubSpot wants them written; an absent value is left out.

        An empty string would clear the property. Raises UnwritableValue for what HubSpot could not take.
        """
        plan = _plan_of(type(self))
        properties = {property_.name: written(property_, value) for property_, value in self.sets.items()}
        values = self.__dict__
        for name, property_ in plan.fields:
            value = values[name]
            if value is not None and value != "":
                properties[property_.name] = written(property_, value)
        return properties


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an event class says of contacts, read from its annotations once.

    `fields` set properties, in the order of declaration; `optional_fields` are the names in a payload of fields that
    may be missing.
    """

    fields: tuple[tuple[str, ContactProperty], ...]
    optional_fields: tuple[str, ...]


@cache
def _plan_of(event: type[LifecycleEvent]) -> _Plan:
    fields = event.model_fields.items()
    return _Plan(
        tuple((name, said) for name, info in fields for said in info.metadata if isinstance(said, ContactProperty)),
        tuple(_name_in_payload(name, info) for name, info in fields if not info.is_required()),
    )


def _name_in_payload(name: str, info: FieldInfo) -> str:
    return info.validation_alias if isinstance(info.validation_alias, str) else name


class UnreadableEvent(Exception):
    """The payload does not fit its event type; a repeat would not mend that."""


class UnwritableValue(Exception):
    """HubSpot could not take this value for the property."""

    def __init__(self, property_: ContactProperty, objection: str) -> None:
        super().__init__(f"{property_.name}: {objection}")


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
        self._by_type.update({it.event_type: it for it in self.events})

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
        return str(_trimmed(subject)) if isinstance(subject, str) else None

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
            payload = json.loads(event.payload)
        except (ValueError, RecursionError) as error:
            raise UnreadableEvent(f"payload is no JSON: {error}") from None
        return self._properties(event.event_type, payload)

    def said_by(self, event: Event) -> dict[str, str | None]:
        """Like `properties_of`, for who must not undo it: None where the payload's value was dropped since."""
        said: dict[str, str | None] = {**self.properties_of(event)}
        dropped = json.loads(event.payload).get(DROPPED, [])
        fields = _plan_of(self._by_type[event.event_type]).fields
        return said | {property_.name: None for name, property_ in fields if name in dropped}

    def _properties(self, event_type: str, payload: object) -> dict[str, str]:
        if (model := self._by_type.get(event_type)) is None:
            raise UnreadableEvent(f"unknown event type {event_type!r}; known are {', '.join(self._by_type)}")
        try:
            return model.model_validate(payload).contact_properties()
        except ValidationError as error:
            raise UnreadableEvent(_in_words(event_type, error)) from None
        except UnwritableValue as error:
            raise UnreadableEvent(f"{event_type} cannot be delivered: {error}") from None

    def _property_of(self, field_name: str) -> ContactProperty:
        return next(it for name, it in _plan_of(self.events[0]).fields if name == field_name)


def written(property_: ContactProperty, value: object) -> str:
    """The value in HubSpot's notation, where everything is a text; raise UnwritableValue when it has none."""
    try:
        text = _NOTATIONS[property_.type](value)
    except (TypeError, ValueError, OverflowError):
        text = None
    if text is None:
        raise UnwritableValue(
            property_, f"HubSpot's type {property_.type} cannot hold a {type(value).__name__} like this"
        )
    if property_.options and text not in property_.options:
        raise UnwritableValue(property_, f"not one of its options {', '.join(property_.options)}")
    if len(text) > TEXT_LENGTH_MAX:
        raise UnwritableValue(property_, f"has {len(text)} characters, and HubSpot stores {TEXT_LENGTH_MAX}")
    return text


def _bool_notation(value: object) -> str | None:
    return str(value).lower() if isinstance(value, bool) else None


def _number_notation(value: object) -> str | None:
    if isinstance(value, int):
        return None if isinstance(value, bool) else str(value)
    # Neither exponents nor thousands separators.
    return f"{Decimal(str(value)):f}" if isinstance(value, float | Decimal) and math.isfinite(value) else None


def _datetime_notation(value: object) -> str | None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _date_notation(value: object) -> str | None:
    return value.isoformat() if isinstance(value, date) and not isinstance(value, datetime) else None


def _text_notation(value: object) -> str | None:
    if isinstance(value, str):
        return str(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


# How a value of each type is written; None where it has no notation.
_NOTATIONS: Mapping[PropertyType, Callable[[object], str | None]] = {
    PropertyType.STRING: _text_notation,
    PropertyType.NUMBER: _number_notation,
    PropertyType.DATE: _date_notation,
    PropertyType.DATETIME: _datetime_notation,
    PropertyType.BOOL: _bool_notation,
    PropertyType.ENUMERATION: _text_notation,
}


def _in_words(event_type: str, error: ValidationError) -> str:
    problems = (
        f"{'.'.join(map(str, it['loc'])) or 'payload'}: {it['msg']}"
        for it in error.errors(include_url=False, include_input=False)
    )
    return f"{event_type} cannot be delivered: {'; '.join(problems)}"
