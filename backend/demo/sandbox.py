"""The sandbox from outside: faults through its control routes, contacts through HubSpot's public API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx2
from pydantic import BaseModel, ConfigDict, Field

# HubSpot's limit on the inputs of a batch.
_INPUTS_MAX = 100
_VERSION = "2026-09"

Properties = Mapping[str, str | None]


class Usage(BaseModel):
    """What the account was asked since it began; `by_status` counts a reset connection as `reset`."""

    model_config = ConfigDict(frozen=True)

    requests: int
    by_status: dict[str, int] = Field(default_factory=dict)
    contacts: int

    def since(self, earlier: Usage) -> Usage:
        by_status = {name: count - earlier.by_status.get(name, 0) for name, count in self.by_status.items()}
        return Usage(
            requests=self.requests - earlier.requests,
            by_status={name: count for name, count in by_status.items() if count},
            contacts=self.contacts,
        )


class _Contact(BaseModel):
    properties: dict[str, str | None]


class _Batch(BaseModel):
    results: list[_Contact]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, for how many requests or seconds; the kinds are the sandbox's."""

    kind: str
    requests: int | None = None
    seconds: float | None = None

    def as_json(self) -> dict[str, object]:
        wanted = {"kind": self.kind, "requests": self.requests, "seconds": self.seconds}
        return {name: value for name, value in wanted.items() if value is not None}


class SandboxAccount:
    def __init__(self, url: str, token: str) -> None:
        self._http = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10, trust_env=False
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def add_fault(self, fault: Fault) -> None:
        (await self._http.post("/sandbox/faults", json=fault.as_json())).raise_for_status()

    async def has_faults(self) -> bool:
        """Whether one is still to be met, or lasts."""
        answer = await self._http.get("/sandbox/faults")
        return bool(answer.raise_for_status().json()["results"])

    async def usage(self) -> Usage:
        answer = await self._http.get("/sandbox/stats")
        return Usage.model_validate(answer.raise_for_status().json())

    async def read_contacts(self, key: str, ids: Sequence[str], properties: Sequence[str]) -> dict[str, Properties]:
        """The contacts whose unique property `key` is one of `ids`, by that id; those not found are left out."""
        found: dict[str, Properties] = {}
        for start in range(0, len(ids), _INPUTS_MAX):
            inputs = [{"id": it} for it in ids[start : start + _INPUTS_MAX]]
            body = {"idProperty": key, "inputs": inputs, "properties": [key, *properties]}
            answer = await self._http.post(f"/crm/objects/{_VERSION}/contacts/batch/read", json=body)
            batch = _Batch.model_validate(answer.raise_for_status().json())
            found |= {str(it.properties[key]): it.properties for it in batch.results}
        return found
