"""The calls to HubSpot. It reports what came back and judges nothing: `classification` does."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import Any, Self

import httpx2
from pydantic import SecretStr

from hubspot_sync.answer import BYTES_READ_AT_ONCE, Answer, is_hubspots_own
from hubspot_sync.errors import NoAnswer
from hubspot_sync.exchange import Exchange, RawAnswer, Unanswered
from hubspot_sync.json_text import read_json, write_json
from hubspot_sync.redaction import Redaction
from sqlalchemy_outbox.lease import REQUEST_DEADLINE

# How long an answer may be. A refusal, with a few errors for each of 100 inputs:
REFUSAL_BYTES_MAX = 256 * 1024
# A batch of 100 contacts with all our properties, or anything else that is small:
ANSWER_BYTES_MAX = 1024 * 1024
# All of an account's properties, with their options:
LIST_BYTES_MAX = 4 * 1024 * 1024

_HEADERS = {
    "Accept": "application/json",
    # What is not compressed cannot grow beyond its bound while it is unpacked.
    "Accept-Encoding": "identity",
    "User-Agent": "hubspot-outbox",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A call that has ended: `endpoint` is a template of few values, `answer` is None where no usable one came."""

    method: str
    endpoint: str
    duration: timedelta
    answer: Answer | None


OnCall = Callable[[Call], None]


def _tell_nobody(_: Call) -> None:
    pass


class HubSpotClient:
    """An async context manager over one connection pool. Redirects are not followed; TLS is verified.

    `on_call` is told of each call; it must not raise.
    """

    def __init__(
        self, base_url: str, token: SecretStr, api_version: str, *, connections: int, on_call: OnCall = _tell_nobody
    ) -> None:
        self._on_call = on_call
        self._token = token
        self._paths = _Paths(api_version)
        self._exchange = Exchange(base_url, _tls_context(), connections=connections, deadline=REQUEST_DEADLINE)

    async def __aenter__(self) -> Self:
        await self._exchange.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.__aexit__(kind, error, trace)

    async def upsert_contacts(self, inputs: Sequence[Mapping[str, object]], personal: Collection[str] = ()) -> Answer:
        """Upsert a batch; the answer's words are free of the `personal` values, whatever they look like."""
        return await self._call("POST", "contacts/batch/upsert", {"inputs": inputs}, personal)

    async def read_contacts(
        self, key_property: str | None, keys: Sequence[str], properties: Sequence[str], *, is_archived: bool = False
    ) -> Answer:
        """Read up to a hundred contacts whose unique property `key_property`, or else record id, is one of `keys`.

        This way asks no search index, which lags.
        """
        body: dict[str, object] = {"inputs": [{"id": key} for key in keys], "properties": properties}
        if key_property is not None:
            body = {"idProperty": key_property, **body}
        query = "?archived=true" if is_archived else ""
        return await self._call("POST", f"contacts/batch/read{query}", body, keys)

    async def erase_contact(self, record_id: str, personal: Collection[str] = ()) -> Answer:
        """Delete a contact for good; HubSpot never takes its addresses again."""
        return await self._call("POST", "contacts/gdpr-delete", {"objectId": record_id}, personal)

    async def archive_contact(self, record_id: str, personal: Collection[str] = ()) -> Answer:
        """Delete a contact as people do, who can restore it for 90 days."""
        return await self._call("POST", "contacts/batch/archive", {"inputs": [{"id": record_id}]}, personal)

    async def account_details(self) -> Answer:
        return await self._call("GET", "account/details")

    async def daily_usage(self) -> Answer:
        return await self._call("GET", "account/api-usage/daily/private-apps")

    async def token_scopes(self) -> Answer:
        """What the token may do. HubSpot wants it in the body too; this call has no version."""
        body = {"tokenKey": self._token.get_secret_value()}
        return await self._call("POST", "private-apps/get/access-token-info", body)

    async def list_properties(self) -> Answer:
        return await self._call("GET", "properties", bytes_max=LIST_BYTES_MAX)

    async def list_groups(self) -> Answer:
        return await self._call("GET", "properties/groups", bytes_max=LIST_BYTES_MAX)

    async def validation_rules(self) -> Answer:
        """Rules on the values of contacts' properties; HubSpot names contacts by a number here."""
        return await self._call("GET", "property-validations/0-1", bytes_max=LIST_BYTES_MAX)

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
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        began_at = time.monotonic()
        try:
            answer = await self._ask(method, self._paths.of(endpoint).format(name=name), body, personal, bytes_max)
        except NoAnswer:
            self._tell(method, endpoint, began_at, None)
            raise
        self._tell(method, endpoint, began_at, answer)
        return answer

    def _tell(self, method: str, endpoint: str, began_at: float, answer: Answer | None) -> None:
        self._on_call(Call(method, endpoint, timedelta(seconds=time.monotonic() - began_at), answer))

    async def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None, personal: Collection[str], bytes_max: int
    ) -> Answer:
        content = None if body is None else write_json(body)
        headers = _HEADERS if body is None else _HEADERS | {"Content-Type": "application/json"}
        # Put on right before it leaves, so that no value on the way there shows it.
        headers = headers | {"Authorization": f"Bearer {self._token.get_secret_value()}"}
        try:
            raw = await self._exchange.ask(method, path, headers, content, _bound(bytes_max))
        except Unanswered as error:
            raise NoAnswer(f"{method} {path}: {error}") from error
        redaction = Redaction(personal, token=self._token.get_secret_value())
        return Answer(
            raw.status,
            raw.headers,
            await _as_json(raw),
            redaction,
            is_cut=raw.is_too_long,
            bytes_read=len(raw.body or b""),
            is_hubspots=is_hubspots_own(raw.headers, raw.body),
        )


def _bound(bytes_max: int) -> Callable[[int], int]:
    return lambda status: bytes_max if 200 <= status < 300 else REFUSAL_BYTES_MAX


class _Paths:
    """Where the endpoints are in an API version: dated versions follow the name, v3 precedes it."""

    def __init__(self, version: str) -> None:
        is_dated = version != "v3"
        self._roots = {
            "contacts": f"/crm/objects/{version}/contacts" if is_dated else "/crm/v3/objects/contacts",
            "properties": f"/crm/properties/{version}/contacts" if is_dated else "/crm/v3/properties/contacts",
            "property-validations": (
                f"/crm/property-validations/{version}" if is_dated else "/crm/v3/property-validations"
            ),
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


async def _as_json(raw: RawAnswer) -> Any:
    """The parsed body; None when it is no JSON."""
    if raw.body is None:
        return None
    is_long = len(raw.body) > BYTES_READ_AT_ONCE
    return await asyncio.to_thread(_parsed, raw.body) if is_long else _parsed(raw.body)


def _parsed(content: bytes) -> Any:
    try:
        return read_json(content)
    except (ValueError, RecursionError):
        return None
