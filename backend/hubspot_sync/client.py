"""The calls to HubSpot. It reports what came back and judges nothing: `delivery` does.

HubSpotError
├── NoAnswer       no usable answer: the connection failed or timed out, or the answer was cut off or too large;
│                  whether HubSpot applied the request is unknown
└── Refused        an answer that a call outside delivery cannot use (provisioning)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from outbox.gate import REQUEST_DEADLINE

CONNECT_TIMEOUT = timedelta(seconds=3)
Body = TypeVar("Body", bound=BaseModel)

# A batch of 100 contacts with all their properties is far below this.
ANSWER_BYTES_MAX = 8 * 1024 * 1024


class HubSpotError(Exception):
    """Something went wrong between us and HubSpot."""


class NoAnswer(HubSpotError):
    """HubSpot gave no usable answer; whether it applied the request is unknown."""


class Refused(HubSpotError):
    """HubSpot refused the call."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.summary())
        self.answer = answer


class _Lenient(BaseModel):
    """Every field of HubSpot's bodies is optional in practice, and new ones appear."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class ErrorDetail(_Lenient):
    """One entry of an error's `errors`, or of a batch answer's."""

    status: str | None = None
    category: str | None = None
    code: str | None = None
    message: str = ""
    context: dict[str, list[str]] = Field(default_factory=dict)
    errors: list[ErrorDetail] = Field(default_factory=list)

    def codes(self) -> set[str]:
        return {it.code for it in (self, *self.errors) if it.code}

    def trace_ids(self) -> list[str]:
        return self.context.get("objectWriteTraceId", [])


class ErrorBody(ErrorDetail):
    correlation_id: str | None = Field(default=None, alias="correlationId")
    policy_name: str | None = Field(default=None, alias="policyName")


class ContactResult(_Lenient):
    id: str
    properties: dict[str, str | None] = Field(default_factory=dict)
    trace_id: str | None = Field(default=None, alias="objectWriteTraceId")


class BatchBody(_Lenient):
    status: str | None = None
    results: list[ContactResult] = Field(default_factory=list)
    errors: list[ErrorDetail] = Field(default_factory=list)


class AccountDetails(_Lenient):
    portal_id: int = Field(alias="portalId")
    time_zone: str = Field(default="UTC", alias="timeZone")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `body` is parsed JSON, or None when it was no JSON (a CDN's page, or nothing)."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def error(self) -> ErrorBody:
        return _parse(ErrorBody, self.body) or ErrorBody()

    def batch(self) -> BatchBody | None:
        return _parse(BatchBody, self.body)

    def retry_after(self) -> timedelta | None:
        seconds = self.headers.get("retry-after", "")
        return timedelta(seconds=int(seconds)) if seconds.isdecimal() else None

    def summary(self) -> str:
        """The refusal in one line: status, category, HubSpot's words and its correlation id."""
        error = self.error()
        correlation_id = error.correlation_id or self.headers.get("x-hubspot-correlation-id")
        words = [f"HubSpot answered {self.status}", error.category or error.policy_name, error.message]
        line = ": ".join(word for word in words if word)
        return f"{line} (correlation id {correlation_id})" if correlation_id else line


class HubSpotClient:
    """An async context manager over one connection pool. Redirects are not followed; TLS is verified."""

    def __init__(self, base_url: str, token: SecretStr, api_version: str, *, connections: int) -> None:
        self._token = token
        self._paths = _Paths(api_version)
        deadline = REQUEST_DEADLINE.total_seconds()
        self._http = httpx2.AsyncClient(
            base_url=base_url,
            follow_redirects=False,
            timeout=httpx2.Timeout(deadline, connect=CONNECT_TIMEOUT.total_seconds()),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def upsert_contacts(self, inputs: Sequence[Mapping[str, object]]) -> Answer:
        return await self._call("POST", f"{self._paths.contacts}/batch/upsert", {"inputs": inputs})

    async def account_details(self) -> Answer:
        return await self._call("GET", self._paths.account_details)

    async def list_properties(self) -> Answer:
        return await self._call("GET", self._paths.properties)

    async def list_groups(self) -> Answer:
        return await self._call("GET", f"{self._paths.properties}/groups")

    async def create_property(self, definition: Mapping[str, object]) -> Answer:
        return await self._call("POST", self._paths.properties, definition)

    async def update_property(self, name: str, changes: Mapping[str, object]) -> Answer:
        return await self._call("PATCH", f"{self._paths.properties}/{name}", changes)

    async def create_group(self, definition: Mapping[str, object]) -> Answer:
        return await self._call("POST", f"{self._paths.properties}/groups", definition)

    async def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self._token.get_secret_value()}", "Accept": "application/json"}
        try:
            # Over all, because the HTTP client's own timeouts begin anew with each byte.
            async with (
                asyncio.timeout(REQUEST_DEADLINE.total_seconds()),
                self._http.stream(method, path, json=body, headers=headers) as response,
            ):
                content = await _read_bounded(response)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise NoAnswer(f"{method} {path}: {type(error).__name__}") from error
        return Answer(response.status_code, response.headers, _as_json(content))


class _Paths:
    """Where the calls are in each API version: dated versions follow the name, v3 precedes it."""

    def __init__(self, version: str) -> None:
        if version == "v3":
            self.contacts = "/crm/v3/objects/contacts"
            self.properties = "/crm/v3/properties/contacts"
            self.account_details = "/account-info/v3/details"
        else:
            self.contacts = f"/crm/objects/{version}/contacts"
            self.properties = f"/crm/properties/{version}/contacts"
            self.account_details = f"/account-info/{version}/details"


async def _read_bounded(response: httpx2.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > ANSWER_BYTES_MAX:
            raise NoAnswer(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
    return bytes(content)


def _as_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _parse(model: type[Body], body: object) -> Body | None:
    try:
        return model.model_validate(body)
    except ValidationError:
        return None
