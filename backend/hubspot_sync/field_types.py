"""The types of events' fields, and which of their values show at a glance how HubSpot writes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, StringConstraints

from hubspot_sync.contact_property import PropertyType

# HubSpot stores longer texts; what identifies things is far shorter.
_REFERENCE_LENGTH_MAX = 255
_EMAIL_LENGTH_MAX = 254
# HubSpot's numbers are exact up to it.
WHOLE_NUMBER_MAX = 2**53

# Blanks, and what is as invisible and comes along when text is copied: a zero-width space, a byte order mark.
_BLANK = r"[\s\u180e\u200b-\u200d\u2060\ufeff]+"
_BLANK_AROUND = re.compile(rf"\A{_BLANK}|{_BLANK}\Z")


def trimmed(value: object) -> object:
    """The one rule of trimming, for subjects and properties: pydantic's own leaves U+001C to U+001F, which HubSpot's
    key would then have and the subject would not.
    """
    return _BLANK_AROUND.sub("", value) if isinstance(value, str) else value


def is_blank(value: object) -> bool:
    # Most texts show by their first letter that they are none.
    return isinstance(value, str) and not value[:1].isalnum() and trimmed(value) == ""


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


@dataclass(frozen=True, slots=True)
class Plain:
    """Stands last in a type's annotation: `read` gives a plain value in HubSpot's notation, as properties `of` it have.

    None where a value is not as plain: what it is, or why it is refused, the type says. Both agree on what is plain.
    """

    of: PropertyType
    read: Callable[[Any], str | None]


def _plain_reference(value: Any) -> str | None:
    # Of what is blank only the space can be printed, and NUL cannot.
    if type(value) is str and 0 < len(value) <= _REFERENCE_LENGTH_MAX and value.isprintable():
        return value if value[0] != " " and value[-1] != " " else None
    return None


def _plain_email_address(value: Any) -> str | None:
    # An address holds no space.
    if type(value) is str and len(value) <= _EMAIL_LENGTH_MAX and value.isascii() and value.isprintable():
        return value.lower() if _EMAIL_ADDRESS.fullmatch(value) else None
    return None


_PLAIN_INSTANT = re.compile(
    r"([12]\d{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)(?:(\.\d{3})\d{0,3})?(?:Z|\+00:00)",
    re.ASCII,
)


def _plain_instant(value: Any) -> str | None:
    """One in UTC, cut to HubSpot's milliseconds."""
    if type(value) is not str or (instant := _PLAIN_INSTANT.fullmatch(value)) is None:
        return None
    return f"{instant[1]}{instant[2] or '.000'}Z"


def whole_number_within(lowest: int, highest: int) -> Callable[[Any], str | None]:
    return lambda value: str(value) if type(value) is int and lowest <= value <= highest else None


Reference = Annotated[
    str,
    StringConstraints(min_length=1, max_length=_REFERENCE_LENGTH_MAX),
    BeforeValidator(trimmed),
    AfterValidator(_has_no_nul),
    Plain(PropertyType.STRING, _plain_reference),
]
# Only what cannot be an address is refused here: HubSpot is the judge of the rest.
EmailAddress = Annotated[
    str,
    StringConstraints(to_lower=True, max_length=_EMAIL_LENGTH_MAX),
    BeforeValidator(trimmed),
    AfterValidator(_may_be_an_email_address),
    Plain(PropertyType.STRING, _plain_email_address),
]
Instant = Annotated[AwareDatetime, BeforeValidator(_may_be_an_instant), Plain(PropertyType.DATETIME, _plain_instant)]
# A JSON number without a fraction: 12 and 12.0, but neither "12" nor true.
WholeNumber = Annotated[
    int,
    BeforeValidator(_is_a_number),
    Plain(PropertyType.NUMBER, whole_number_within(-WHOLE_NUMBER_MAX, WHOLE_NUMBER_MAX)),
]
