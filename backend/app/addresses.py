"""Where a driver can be reached: a phone number or an email address, each in its one written form."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_PHONE_PUNCTUATION = re.compile(r"[\s().-]")

_EMAIL_CHARS_MAX = 254
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_EMAIL = re.compile(
    rf"[a-z0-9!#$%&'*+/=?^_`{{|}}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{{|}}~-]+)*@(?:{_LABEL}\.)+[a-z]{_LABEL}"
)


class Channel(StrEnum):
    PHONE = "phone"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class Address:
    channel: Channel
    text: str = field(repr=False)  # No log may hold it.


def normalise_phone(text: str) -> str:
    """E.164, without the spaces, dots, hyphens and brackets people write."""
    phone = _PHONE_PUNCTUATION.sub("", text)
    if not _PHONE.fullmatch(phone):
        raise ValueError("a phone number begins with + and the country code, and has 7 to 15 digits: +4917012345678")
    return phone


def normalise_email(text: str) -> str:
    """Lower case, without the spaces around it: HubSpot knows one contact by it."""
    email = text.strip().lower()
    if len(email) > _EMAIL_CHARS_MAX or not _EMAIL.fullmatch(email):
        raise ValueError("an email address looks like driver@example.com")
    return email
