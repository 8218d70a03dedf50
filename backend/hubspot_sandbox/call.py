"""One API request as faults and handlers see it."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlencode

from pydantic_core import from_json
from starlette.datastructures import Headers, QueryParams

from hubspot_sandbox.values import email_key

VERSIONS_WITH_ACCOUNT_RULES = ("2026-09",)

_CONTACT_WRITES = re.compile(
    r"POST /crm/.*objects.*/contacts(/batch/(upsert|create|update))?|PATCH /crm/.*objects.*/contacts/[^/]+"
)
_KEYS_IN_BODY = ("id", "objectId", "primaryObjectId", "objectIdToMerge")


class InputIgnored(Exception):
    """A fault: the input is neither written nor named in the answer."""


class RaceLost(Exception):
    """A fault: another request creates the contact of this input first."""


@dataclass
class Call:
    method: str
    path: str
    parameters: Mapping[str, str]
    query: QueryParams
    headers: Headers
    body: bytes
    base_url: str = ""
    """Where the client has found the account: scheme and host."""
    meet_fault: Callable[[int], None] = lambda position: None
    """Raises what a fault makes of the input at this position: 0 for the one record of a call without inputs."""

    @property
    def token(self) -> str:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def next_page(self, after: str) -> dict[str, dict[str, str]]:
        """What an answer says of the page behind it: this request again, with its whole query, from there on."""
        others = [(name, value) for name, value in self.query.multi_items() if name != "after"]
        link = f"{self.base_url}{self.path}?{urlencode([*others, ('after', after)])}"
        return {"next": {"after": after, "link": link}}

    @property
    def is_batch(self) -> bool:
        return "/batch/" in self.path

    @property
    def writes_contacts(self) -> bool:
        """Whether it creates or changes contacts by their properties, one by one or in a batch."""
        return _CONTACT_WRITES.fullmatch(f"{self.method} {self.path}") is not None

    @property
    def enforces_account_rules(self) -> bool:
        """Whether this version holds writes to the properties that the account's admin requires."""
        return any(f"/{version}/" in self.path for version in VERSIONS_WITH_ACCOUNT_RULES)

    @cached_property
    def json(self) -> object:
        """The body, parsed; None if it is no JSON."""
        try:
            return from_json(self.body)
        except ValueError:
            return None

    @cached_property
    def inputs(self) -> list[object] | None:
        """What a batch carries; None for other requests and for what is no batch."""
        if not self.is_batch or not isinstance(self.json, dict):
            return None
        inputs = self.json.get("inputs")
        return inputs if isinstance(inputs, list) else None

    def names(self, key_properties: Collection[str]) -> list[frozenset[str]]:
        """What each input, or the one record of a call without inputs, is called: its id and its unique values."""
        if self.inputs is not None:
            return [frozenset(_names(wanted, key_properties)) for wanted in self.inputs]
        addressed = [email_key(self.parameters["id"])] if "id" in self.parameters else []
        return [frozenset([*addressed, *_names(self.json, key_properties)])]


def _names(record: object, key_properties: Collection[str]) -> Iterator[str]:
    if not isinstance(record, dict):
        return
    properties = record.get("properties")
    values = properties if isinstance(properties, dict) else {}
    for value in (*map(record.get, _KEYS_IN_BODY), *map(values.get, key_properties)):
        if isinstance(value, str):
            yield email_key(value)
