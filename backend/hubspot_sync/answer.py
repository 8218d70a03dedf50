"""What HubSpot answered, read leniently: every field of its bodies is optional in practice, and new ones appear.

Reading never raises and never descends further than one error's errors, whatever the body is. Texts are raw inside of
this file; what leaves it to be kept or shown has passed `Redaction.shown`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from hubspot_sync.redaction import Redaction, redact

Body = TypeVar("Body", bound=BaseModel)

RETRY_AFTER_MIN = timedelta(seconds=1)
RETRY_AFTER_MAX = timedelta(hours=24)

# An honest answer has 100 results, or a few errors for each of 100 inputs, each naming its input twice.
ENTRIES_MAX = 2000
MESSAGE_CHARS_MAX = 1000
NAME_CHARS_MAX = 100
# Longer bodies are read in a thread.
BYTES_READ_AT_ONCE = 128 * 1024
# Longer ones whose words are looked into are judged in a thread. Taking a hundred drivers' addresses and phone numbers,
# as long as they may be, out of so much text holds the event loop for some 20 ms.
BYTES_JUDGED_AT_ONCE = 32 * 1024
# Record ids are that short together, or words.
_IDS_CHARS_MAX = 8 * 1024
# A list of problems in a message that is longer is not read.
_LISTED_CHARS_MAX = 64 * 1024

# Beyond them no day can be added to a date, nor a time zone.
_YEARS = range(1900, 9000)
_SECONDS = re.compile(r"\d++(?:\.\d++)?", re.ASCII)
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2,8},? [\w :-]{15,30}", re.ASCII)
_CORRELATION_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
_NAMES_AN_INPUT = ("objectWriteTraceId", "id", "ids")
# The 400 about property values lists them as JSON in its message; `errors` may be shorter than that list.
_LISTED = "Property values were not valid: "


class ErrorDetail:
    """An error's body, one entry of its `errors`, or one of a batch answer's. It is read as far as it is asked."""

    def __init__(self, raw: Mapping[str, Any], redaction: Redaction) -> None:
        self._raw = raw
        self._redaction = redaction

    @property
    def raw_message(self) -> str:
        """Only to be compared with, never to be shown."""
        return _text(self._raw.get("message"))

    @property
    def raw_code(self) -> str:
        """Only to be compared with, never to be shown."""
        return _text(self._raw.get("code"))

    @property
    def raw_category(self) -> str:
        """Only to be compared with, never to be shown."""
        return _text(self._raw.get("category"))

    @cached_property
    def message(self) -> str:
        return self._redaction.shown(self.raw_message, MESSAGE_CHARS_MAX).strip()

    @cached_property
    def category(self) -> str:
        return self._name("category")

    @cached_property
    def code(self) -> str:
        return self._name("code")

    @cached_property
    def policy_name(self) -> str:
        return self._name("policyName")

    @cached_property
    def correlation_id(self) -> str:
        return self._name("correlationId")

    @cached_property
    def property_name(self) -> str:
        return next(self.context("propertyName"), "")

    @cached_property
    def errors(self) -> list[ErrorDetail]:
        return [ErrorDetail(raw, self._redaction) for raw in _objects(self._raw.get("errors"))]

    @cached_property
    def problems(self) -> list[ErrorDetail]:
        """The coded problems: of `errors`, of this error itself, and of the list in its message."""
        named = [error for error in (*self.errors, self) if error.raw_code]
        known = {error.raw_problem for error in named}
        return [*named, *(error for error in self._listed() if error.raw_problem not in known)]

    @property
    def raw_problem(self) -> tuple[str, str]:
        """What two accounts of one problem have in common; only to be compared with."""
        return self.raw_code, next(self.raw_context("propertyName"), "")

    def context(self, key: str) -> Iterator[str]:
        """The texts that the error's context has under `key`."""
        return (self._redaction.shown(text, NAME_CHARS_MAX) for text in self.raw_context(key))

    def raw_context(self, key: str) -> Iterator[str]:
        """Only to be compared with, never to be shown. HubSpot has lists of texts; one alone, or a number, was seen."""
        context = self._raw.get("context")
        values = context.get(key) if isinstance(context, dict) else None
        return (text for value in (values if isinstance(values, list) else [values]) if (text := _id(value)))

    def raw_names(self) -> Iterator[str]:
        """What it may name an input by; only to be compared with."""
        return (name for key in _NAMES_AN_INPUT for name in self.raw_context(key))

    def _name(self, key: str) -> str:
        return self._redaction.shown(_text(self._raw.get(key)), NAME_CHARS_MAX)

    def _listed(self) -> Iterator[ErrorDetail]:
        message = self.raw_message
        if not message.startswith(_LISTED) or len(message) > _LISTED_CHARS_MAX:
            return
        try:
            listed = json.loads(message.removeprefix(_LISTED))
        except (ValueError, RecursionError):
            return
        for problem in islice(_objects(listed), ENTRIES_MAX):
            if code := _text(problem.get("error")):
                context = {"propertyName": [_text(problem.get("name"))]}
                yield ErrorDetail(
                    {"code": code, "message": problem.get("message"), "context": context}, self._redaction
                )


@dataclass(frozen=True, slots=True)
class ContactResult:
    """A contact that was written: its record id, and what the answer says of the input that wrote it.

    All of it is raw: to be compared with, or for who may see a person's data.
    """

    raw_id: str = field(repr=False)
    trace_id: str = field(repr=False)
    properties: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RowError:
    """What went wrong with one input: `names` are the texts by which the error may name it, never to be shown."""

    error: ErrorDetail
    names: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BatchBody:
    """`raw_status` is only to be compared with.

    `incomplete` are results without a record id: they may name an input, and confirm nothing.
    """

    raw_status: str = field(repr=False)
    results: Sequence[ContactResult]
    incomplete: Sequence[ContactResult]
    errors: Sequence[RowError]


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back: `body` is parsed JSON, or None when it was no JSON (a CDN's page, or nothing) or was not read.

    `is_cut` says that it was longer than is read; `bytes_read` is how long its body was. `is_hubspots` is false of what
    somebody between HubSpot and us said.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(repr=False)
    redaction: Redaction = field(default=redact, repr=False)
    is_cut: bool = False
    bytes_read: int = 0
    is_hubspots: bool = True

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @cached_property
    def is_too_long(self) -> bool:
        """In bytes or in entries. It is judged by its status and its headers."""
        return self.is_cut or _entries(self.body, self.redaction) > ENTRIES_MAX

    @cached_property
    def is_large(self) -> bool:
        """Whether judging it takes a thread. Of a success with nothing but results only their ids are looked into."""
        if self.bytes_read <= BYTES_JUDGED_AT_ONCE:
            return False
        if self.bytes_read > BYTES_READ_AT_ONCE or not self.is_success or self._batch is None:
            return True
        ids = sum(len(result.raw_id) for result in self._batch.results)
        return bool(self._batch.errors) or ids > _IDS_CHARS_MAX

    def error(self) -> ErrorDetail:
        return self._error

    def batch(self) -> BatchBody | None:
        """The body of a batch; None when it is none. Entries that make no sense are left out."""
        return self._batch

    def shown(self, text: object, chars_max: int = NAME_CHARS_MAX) -> str:
        """A text of the answer as it may be kept and shown; empty for what is no text."""
        return self.redaction.shown(_text(text), chars_max)

    def shown_ids(self, results: Iterable[ContactResult]) -> list[str]:
        """The results' record ids as they may be kept and shown."""
        return self.redaction.shown_each([result.raw_id for result in results], NAME_CHARS_MAX)

    def retry_after(self) -> timedelta | None:
        """How long HubSpot asks to wait, kept within bounds; None when it does not say so in a way that HTTP has."""
        text = self.headers.get("retry-after", "").strip()
        if _SECONDS.fullmatch(text):
            wait = timedelta(seconds=min(float(text), RETRY_AFTER_MAX.total_seconds()))
        elif (until := http_date(text)) is not None:
            wait = until - self.sent_at(datetime.now(UTC))
        else:
            return None
        return min(max(wait, RETRY_AFTER_MIN), RETRY_AFTER_MAX)

    def sent_at(self, now: datetime) -> datetime:
        """When it was sent, by the clock that its other instants are by; `now`, by ours, where it does not say."""
        sent_at = http_date(self.headers.get("date", "").strip())
        return sent_at if sent_at is not None and sent_at.year in _YEARS else now

    def redirect_host(self) -> str:
        """Where a redirect leads; empty when it does not say."""
        try:
            return self.shown(urlsplit(self.headers.get("location", "")).hostname)
        except ValueError:
            return ""

    def summary(self) -> str:
        """The refusal in one line: status, category and HubSpot's words, free of what names a person."""
        error = self._error
        words = [f"HubSpot answered {self.status}", error.category or error.policy_name, error.message]
        return ": ".join(word for word in words if word)

    @property
    def category(self) -> str | None:
        """HubSpot's name for what is wrong, of the first input where it is wrong with some; None when nothing is."""
        if self.status in (200, 201, 204):
            return None
        if category := self._error.category or self._error.policy_name:
            return category
        errors = () if self._batch is None else self._batch.errors
        return next((row.error.category for row in errors if row.error.category), None)

    @cached_property
    def correlation_id(self) -> str:
        """What HubSpot's support asks for; empty when there is none."""
        text = self._error.correlation_id or self.shown(self.headers.get("x-hubspot-correlation-id", ""))
        return text if _CORRELATION_ID.fullmatch(text) else ""

    @cached_property
    def _readable(self) -> dict[str, Any] | None:
        return self.body if isinstance(self.body, dict) and not self.is_too_long else None

    @cached_property
    def _error(self) -> ErrorDetail:
        return ErrorDetail(self._readable or {}, self.redaction)

    @cached_property
    def _batch(self) -> BatchBody | None:
        body = self._readable
        if body is None:
            return None
        results = list(_results(body))
        complete = [result for result in results if result.raw_id]
        incomplete = [result for result in results if not result.raw_id]
        errors = [_row_error(error) for error in self._error.errors]
        return BatchBody(_text(body.get("status")), complete, incomplete, errors)


def parsed(model: type[Body], body: object) -> Body | None:
    try:
        return model.model_validate(body)
    except ValidationError:
        return None


def http_date(text: str) -> datetime | None:
    """The instant that a header names; None when it names none."""
    if not _HTTP_DATE.fullmatch(text):
        return None
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return instant if instant.tzinfo is not None else None


def is_hubspots_own(headers: Mapping[str, str], content: bytes | None) -> bool:
    """Whether HubSpot itself may have said this: not a web page or a plain text, as its CDN's are."""
    media_type = headers.get("content-type", "").lower()
    first = (content or b"").lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if "json" in media_type or first in (b"{", b"["):
        return True
    return not media_type.startswith("text/") and not first


def _entries(body: object, redaction: Redaction) -> int:
    """How many there are to be read in a body; counting ends when there are too many."""
    if not isinstance(body, dict):
        return 0
    lists = [value for value in (body.get("results"), body.get("errors")) if isinstance(value, list)]
    if (count := sum(map(len, lists))) > ENTRIES_MAX:
        return count
    for error in ErrorDetail(body, redaction).errors:
        names = islice(error.raw_names(), ENTRIES_MAX)
        count += len(error.errors) + sum(1 for _ in names)
        if count > ENTRIES_MAX:
            break
    return count


def _results(body: Mapping[str, Any]) -> Iterator[ContactResult]:
    for raw in _objects(body.get("results")):
        properties = raw.get("properties")
        trace_id = _text(raw.get("objectWriteTraceId"))
        yield ContactResult(_id(raw.get("id")), trace_id, properties if isinstance(properties, dict) else {})


def _row_error(error: ErrorDetail) -> RowError:
    return RowError(error, frozenset(error.raw_names()))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _id(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _objects(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
