"""The calls to HubSpot. It reports what came back and judges nothing: `classification` does.

HubSpotError
├── NoAnswer       no usable answer: the connection failed or timed out, or the answer was cut off or too large;
│                  whether HubSpot applied the request is unknown
└── Refused        an answer that a call outside delivery cannot use (the account, provisioning)
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import Any, Self

import httpx2
from pydantic import SecretStr

from hubspot_sync import telemetry
from hubspot_sync.answer import Answer
from hubspot_sync.redaction import Redaction
from outbox.lease import REQUEST_DEADLINE

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
        self._paths = _Paths(api_version)
        deadline = REQUEST_DEADLINE.total_seconds()
        self._http = httpx2.AsyncClient(
            base_url=base_url,
            auth=_BearerToken(token),
            # What is not compressed cannot grow beyond its bound while it is unpacked.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            follow_redirects=False,
            timeout=httpx2.Timeout(deadline, connect=CONNECT_TIMEOUT.total_seconds()),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            verify=_tls_context(),
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
        return await self._call("POST", "contacts/batch/upsert", {"inputs": inputs}, personal)

    async def read_contact(self, key_property: str, key: str, properties: Sequence[str]) -> Answer:
        """Read the contact whose unique property `key_property` is `key`; this way asks no search index, which lags."""
        body = {"idProperty": key_property, "inputs": [{"id": key}], "properties": properties}
        return await self._call("POST", "contacts/batch/read", body, [key])

    async def account_details(self) -> Answer:
        return await self._call("GET", "account/details")

    async def daily_usage(self) -> Answer:
        return await self._call("GET", "account/api-usage/daily/private-apps")

    async def token_scopes(self) -> Answer:
        """What the token may do. HubSpot wants it in the body too; this call has no version."""
        body = {"tokenKey": self._token.get_secret_value()}
        return await self._call("POST", "private-apps/get/access-token-info", body)

    async def list_properties(self) -> Answer:
        return await self._call("GET", "properties")

    async def list_groups(self) -> Answer:
        return await self._call("GET", "properties/groups")

    async def create_property(self, definition: Mapping[str, object]) -> Answer:
        return await self._call("POST", "properties", definition)

    async def update_property(self, name: str, changes: Mapping[str, object]) -> Answer:
        return await self._call("PATCH", "properties/{name}", changes, name=name)

    async def create_group(self, definition: Mapping[str, object]) -> Answer:
        return await self._call("POST", "properties/groups", definition)

    async def _call(
        self,
        method: str,
        endpoint: str,
        body: Mapping[str, object] | None = None,
        personal: Collection[str] = (),
        *,
        name: str = "",
    ) -> Answer:
        """Make a call to the endpoint, which is a template of few values: what is measured carries it."""
        began_at = time.monotonic()
        try:
            answer = await self._ask(method, self._paths.of(endpoint).format(name=name), body, personal)
        except NoAnswer:
            telemetry.note_no_answer(method, endpoint, timedelta(seconds=time.monotonic() - began_at))
            raise
        telemetry.note_answer(method, endpoint, answer, timedelta(seconds=time.monotonic() - began_at))
        return answer

    async def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None, personal: Collection[str]
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


class _Paths:
    """Where the endpoints are in an API version: dated versions follow the name, v3 precedes it."""

    def __init__(self, version: str) -> None:
        is_dated = version != "v3"
        self._roots = {
            "contacts": f"/crm/objects/{version}/contacts" if is_dated else "/crm/v3/objects/contacts",
            "properties": f"/crm/properties/{version}/contacts" if is_dated else "/crm/v3/properties/contacts",
            "account": f"/account-info/{version}",
            "private-apps": "/oauth/v2/private-apps",
        }

    def of(self, endpoint: str) -> str:
        root, slash, rest = endpoint.partition("/")
        return self._roots[root] + slash + rest


@cache
def _tls_context() -> ssl.SSLContext:
    """One for all clients of this process: reading the machine's certificates takes longer than most calls."""
    return httpx2.create_ssl_context(trust_env=False)


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
