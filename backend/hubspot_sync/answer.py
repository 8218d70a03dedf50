"""What HubSpot answered, read leniently: every field of its bodies is optional in practice, and new ones appear."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hubspot_sync.redaction import Redaction, redact, redacted_json

Body = TypeVar("Body", bound=BaseModel)

RETRY_AFTER_MIN = timedelta(seconds=1)
RETRY_AFTER_MAX = timedelta(hours=24)

_CORRELATION_ID = re.compile(r"[\w-]{1,64}")
_NAMES_AN_INPUT = ("objectWriteTraceId", "id", "ids")
# The 400 about property values lists them as JSON in its message; `errors` may be shorter than that list.
_LISTED = "Property values were not valid: "


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    """HubSpot's contexts hold lists of texts; one text alone, or a number, has been seen."""
    values = value if isinstance(value, list) else [value]
    return [str(it) for it in values if isinstance(it, str | int)]


def _contexts(value: object) -> dict[str, list[str]]:
    return {str(name): _texts(it) for name, it in value.items()} if isinstance(value, Mapping) else {}


def _objects(value: object) -> list[object]:
    return [it for it in value if isinstance(it, dict)] if isinstance(value, list) else []


Text = Annotated[str, BeforeValidator(_text)]
Context = Annotated[dict[str, list[str]], BeforeValidator(_contexts)]


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class ErrorDetail(_Lenient):
    """An error's body, one entry of its `errors`, or one of a batch answer's."""

    category: Text = ""
    code: Text = ""
    message: Text = ""
    context: Context = Field(default_factory=dict)
    errors: Annotated[list[ErrorDetail], BeforeValidator(_objects)] = Field(default_factory=list)

    @cached_property
    def problems(self) -> list[ErrorDetail]:
        """The coded problems: of `errors`, of this error itself, and of the list in its message."""
        named = [it for it in (*self.errors, self) if it.code]
        codes = {(it.code, it.property_name) for it in named}
        return [*named, *(it for it in _listed(self.message) if (it.code, it.property_name) not in codes)]

    @property
    def property_name(self) -> str:
        return next(iter(self.context.get("propertyName", [])), "")


class ErrorBody(ErrorDetail):
    correlation_id: Text = Field(default="", alias="correlationId")
    policy_name: Text = Field(default="", alias="policyName")


class _Result(_Lenient):
    id: Annotated[str, BeforeValidator(str)]
    properties: Annotated[dict[str, Any], BeforeValidator(lambda it: it if isinstance(it, dict) else {})] = Field(
        default_factory=dict
    )
    trace_id: Text = Field(default="", alias="objectWriteTraceId")


@dataclass(frozen=True, slots=True)
class ContactResult:
    """A contact that was written: its record id, and what the answer says of the input that wrote it."""

    id: str
    trace_id: str
    properties: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RowError:
    """What went wrong with one input: `names` are the texts by which the error may name it, never to be shown."""

    error: ErrorDetail
    names: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BatchBody:
    status: str
    results: list[ContactResult]
    errors: list[RowError]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `body` is parsed JSON, or None when it was no JSON (a CDN's page, or nothing)."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(repr=False)
    redaction: Redaction = field(default=redact, repr=False)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def error(self) -> ErrorBody:
        return parsed(ErrorBody, redacted_json(self.body, self.redaction)) or ErrorBody()

    def batch(self) -> BatchBody | None:
        """The body of a batch; None when it is none. Entries that make no sense are left out."""
        if not isinstance(self.body, dict):
            return None
        results = (parsed(_Result, it) for it in _objects(self.body.get("results")))
        return BatchBody(
            _text(self.body.get("status")),
            [ContactResult(it.id, it.trace_id, it.properties) for it in results if it is not None],
            list(self._row_errors()),
        )

    def retry_after(self) -> timedelta | None:
        """How long HubSpot asks to wait, kept within bounds; None when it does not say."""
        text = self.headers.get("retry-after", "").strip()
        try:
            wait = timedelta(seconds=min(float(text), RETRY_AFTER_MAX.total_seconds()))
        except ValueError:
            try:
                wait = parsedate_to_datetime(text) - datetime.now(UTC)
            except (ValueError, TypeError, OverflowError):
                return None
        return min(max(wait, RETRY_AFTER_MIN), RETRY_AFTER_MAX)

    def summary(self) -> str:
        """The refusal in one line: status, category and HubSpot's words, free of what names a person."""
        error = self.error()
        words = [f"HubSpot answered {self.status}", error.category or error.policy_name, error.message.strip()]
        return ": ".join(word for word in words if word)

    @property
    def category(self) -> str | None:
        """HubSpot's name for what is wrong, of the first input where it is wrong with some; None when nothing is."""
        if self.status in (200, 201, 204):
            return None
        error = self.error()
        if error.category or error.policy_name:
            return error.category or error.policy_name
        batch = self.batch()
        return next((it.error.category for it in batch.errors if it.error.category), None) if batch else None

    @property
    def correlation_id(self) -> str:
        """What HubSpot's support asks for; empty when there is none."""
        text = self.error().correlation_id or self.headers.get("x-hubspot-correlation-id", "")
        return text if _CORRELATION_ID.fullmatch(text) else ""

    def _row_errors(self) -> Iterator[RowError]:
        for it in _objects(self.body.get("errors")):
            raw = parsed(ErrorDetail, it)
            error = parsed(ErrorDetail, redacted_json(it, self.redaction))
            if raw is not None and error is not None:
                names = (name for key in _NAMES_AN_INPUT for name in raw.context.get(key, []))
                yield RowError(error, frozenset(names))


def parsed(model: type[Body], body: object) -> Body | None:
    try:
        return model.model_validate(body)
    except ValidationError:
        return None


def _listed(message: str) -> list[ErrorDetail]:
    if not message.startswith(_LISTED):
        return []
    try:
        listed = json.loads(message.removeprefix(_LISTED))
    except (ValueError, RecursionError):
        return []
    return [
        ErrorDetail(code=code, message=_text(it.get("message")), context={"propertyName": [_text(it.get("name"))]})
        for it in _objects(listed)
        if isinstance(it, dict) and (code := _text(it.get("error")))
    ]
