"""The calls to HubSpot. It reports what came back and judges nothing: `classification` does.

HubSpotError
├── NoAnswer       no usable answer: the connection failed or timed out, or the answer was cut off or too large;
│                  whether HubSpot applied the request is unknown
└── Refused        an answer that a call outside delivery cannot use (the account, provisioning)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import httpx2
from pydantic import SecretStr

from hubspot_sync.answer import Answer
from hubspot_sync.redaction import Redaction
from outbox.gate import REQUEST_DEADLINE

CONNECT_TIMEOUT = timedelta(seconds=3)

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


class HubSpotClient:
    """An async context manager over one connection pool. Redirects are not followed; TLS is verified."""

    def __init__(self, base_url: str, token: SecretStr, api_version: str, *, connections: int) -> None:
        self._token = token
        self._paths = _Paths.of(api_version)
        deadline = REQUEST_DEADLINE.total_seconds()
        self._http = httpx2.AsyncClient(
            base_url=base_url,
            auth=_BearerToken(token),
            # What is not compressed cannot grow beyond its bound while it is unpacked.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
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

    async def upsert_contacts(self, inputs: Sequence[Mapping[str, object]], personal: Collection[str] = ()) -> Answer:
        """Upsert a batch; the answer's words are free of the `personal` values, whatever they look like."""
        return await self._call("POST", f"{self._paths.contacts}/batch/upsert", {"inputs": inputs}, personal)

    async def read_contact(self, key_property: str, key: str, properties: Sequence[str]) -> Answer:
        """Read the contact whose unique property `key_property` is `key`; this way asks no search index, which lags."""
        body = {"idProperty": key_property, "inputs": [{"id": key}], "properties": properties}
        return await self._call("POST", f"{self._paths.contacts}/batch/read", body, [key])

    async def account_details(self) -> Answer:
        return await self._call("GET", f"{self._paths.account}/details")

    async def daily_usage(self) -> Answer:
        return await self._call("GET", f"{self._paths.account}/api-usage/daily/private-apps")

    async def token_scopes(self) -> Answer:
        """What the token may do. HubSpot wants it in the body too; this call has no version."""
        body = {"tokenKey": self._token.get_secret_value()}
        return await self._call("POST", "/oauth/v2/private-apps/get/access-token-info", body)

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

    async def _call(
        self, method: str, path: str, body: Mapping[str, object] | None = None, personal: Collection[str] = ()
    ) -> Answer:
        try:
            # Over all, because the HTTP client's own timeouts begin anew with each byte.
            async with (
                asyncio.timeout(REQUEST_DEADLINE.total_seconds()),
                self._http.stream(method, path, json=body) as response,
            ):
                content = await _read_bounded(response)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise NoAnswer(f"{method} {path}: {type(error).__name__}") from error
        redaction = Redaction(personal, token=self._token.get_secret_value())
        return Answer(response.status_code, response.headers, _as_json(content), redaction)


class _BearerToken(httpx2.Auth):
    """Puts the token on a request right before it leaves, so that no value on the way there shows it."""

    def __init__(self, token: SecretStr) -> None:
        self._token = token

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        yield request


@dataclass(frozen=True, slots=True)
class _Paths:
    """Where the calls are in each API version: dated versions follow the name, v3 precedes it."""

    contacts: str
    properties: str
    account: str = field(kw_only=True)

    @classmethod
    def of(cls, version: str) -> Self:
        if version == "v3":
            return cls("/crm/v3/objects/contacts", "/crm/v3/properties/contacts", account="/account-info/v3")
        return cls(
            f"/crm/objects/{version}/contacts",
            f"/crm/properties/{version}/contacts",
            account=f"/account-info/{version}",
        )


async def _read_bounded(response: httpx2.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > ANSWER_BYTES_MAX:
            raise NoAnswer(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
    return bytes(content)


def _as_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
