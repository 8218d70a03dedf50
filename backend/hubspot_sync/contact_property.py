"""Properties of HubSpot's contacts, and how their values are written: everything is a text there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum

TEXT_LENGTH_MAX = 65_536


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


# Every account has it, and it is the key of contacts that no integration of ours has met yet.
EMAIL = ContactProperty("email", "Email", PropertyType.STRING, is_standard=True, is_personal=True)


@dataclass(frozen=True, slots=True)
class PropertyGroup:
    """Where HubSpot shows the properties."""

    name: str
    label: str


class UnwritableValue(Exception):
    """HubSpot could not take this value for the property."""

    def __init__(self, property_: ContactProperty, objection: str) -> None:
        super().__init__(f"{property_.name}: {objection}")


def written(property_: ContactProperty, value: object) -> str:
    """The value in HubSpot's notation; raise UnwritableValue when it has none."""
    return writer_of(property_)(value)


def writer_of(property_: ContactProperty) -> Callable[[object], str]:
    """`written`, for the values of one property."""
    notation, options = _NOTATIONS[property_.type], frozenset(property_.options)

    def write(value: object) -> str:
        try:
            text = notation(value)
        except (TypeError, ValueError, OverflowError):
            text = None
        if text is None:
            raise UnwritableValue(
                property_, f"HubSpot's type {property_.type} cannot hold a {type(value).__name__} like this"
            )
        if options and text not in options:
            raise UnwritableValue(property_, f"not one of its options {', '.join(property_.options)}")
        if len(text) > TEXT_LENGTH_MAX:
            raise UnwritableValue(property_, f"has {len(text)} characters, and HubSpot stores {TEXT_LENGTH_MAX}")
        return text

    return write


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
