"""What HubSpot accepts as a value, type by type, and the form it stores.

Pure: a definition and a text in, the stored text out, or `InvalidValue` with HubSpot's code.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from hubspot_sandbox.wire import iso

TEXT_LENGTH_MAX = 65_536
EMAIL_LENGTH_MAX = 254

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_EPOCH_MS = re.compile(r"-?\d+", re.ASCII)
_CALENDAR_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_EMAIL = re.compile(r"[^\s@,;<>()\[\]\\\"]+@[^\W_]([\w-]*[^\W_])?(\.[^\W_]([\w-]*[^\W_])?)*\.[^\W\d_]{2,}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(eq=False)
class InvalidValue(Exception):
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ValueRule:
    """What a property's definition says about its values."""

    type: str
    multiple: bool = False
    options: frozenset[str] = frozenset()
    is_email: bool = False


def stored_form(rule: ValueRule, text: str) -> str:
    """The text HubSpot keeps for `text`. "" clears and is valid for every type."""
    if text == "":
        return ""
    if rule.is_email:
        return stored_email(text)
    return _FORMS[rule.type](rule, text)


def stored_email(text: str) -> str:
    email = email_key(text)
    local_part = email.partition("@")[0]
    dots_are_wrong = local_part.startswith(".") or local_part.endswith(".") or ".." in local_part
    if len(email) > EMAIL_LENGTH_MAX or dots_are_wrong or not _EMAIL.fullmatch(email):
        raise InvalidValue("INVALID_EMAIL", f"Email address {text} is invalid")
    return email


def email_key(text: str) -> str:
    """The form in which HubSpot stores and compares addresses."""
    return text.strip().lower()


def _string(_: ValueRule, text: str) -> str:
    if len(text) > TEXT_LENGTH_MAX:
        raise InvalidValue("VALUE_TOO_LONG", f"The value has {len(text)} characters, {TEXT_LENGTH_MAX} at most")
    return text


def _number(_: ValueRule, text: str) -> str:
    if not _NUMBER.fullmatch(text.strip()):
        raise InvalidValue("INVALID_LONG", f"{text} was not a valid long.")
    return text.strip()


def _date(_: ValueRule, text: str) -> str:
    if _CALENDAR_DATE.fullmatch(text):
        return _calendar_date(text)
    instant = _instant(text, "date")
    if instant.timetz().replace(tzinfo=None) != datetime.min.time():
        at = f"{instant.hour}:{instant.minute}:{instant.second}.{instant.microsecond // 1000}"
        raise InvalidValue("INVALID_DATE", f"{text} is at {at} UTC, not midnight!")
    return instant.date().isoformat()


def _calendar_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise InvalidValue("INVALID_DATE", f"{text} was not a valid date.") from error


def _datetime(_: ValueRule, text: str) -> str:
    return iso(_instant(text, "datetime").timestamp())


def _instant(text: str, what: str) -> datetime:
    try:
        if _EPOCH_MS.fullmatch(text):
            return _EPOCH + timedelta(milliseconds=int(text))
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None and "T" in text:
            return instant.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidValue("INVALID_DATE", f"{text} was not a valid {what}.") from error
    raise InvalidValue("INVALID_DATE", f"{text} was not a valid {what}.")


def _bool(_: ValueRule, text: str) -> str:
    if text not in ("true", "false"):
        raise InvalidValue("INVALID_OPTION", f"{text} was not one of the allowed options: [true, false]")
    return text


def _enumeration(rule: ValueRule, text: str) -> str:
    """One option; for checkboxes `a;b` replaces and a leading `;` appends (the store resolves that)."""
    chosen = text.removeprefix(";").split(";") if rule.multiple else [text]
    for option in chosen:
        if option not in rule.options:
            allowed = ", ".join(sorted(rule.options))
            raise InvalidValue("INVALID_OPTION", f"{option} was not one of the allowed options: [{allowed}]")
    return text


_FORMS: dict[str, Callable[[ValueRule, str], str]] = {
    "string": _string,
    "phone_number": _string,
    "number": _number,
    "date": _date,
    "datetime": _datetime,
    "bool": _bool,
    "enumeration": _enumeration,
}
TYPES = frozenset(_FORMS)
