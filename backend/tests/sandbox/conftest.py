"""One real server for the whole folder, fresh for every test, and a client that speaks to it as an integration does."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from hubspot_sandbox import Sandbox

UPSERT = "/crm/objects/2026-09/contacts/batch/upsert"
READ = "/crm/objects/2026-09/contacts/batch/read"
CONTACTS = "/crm/objects/2026-09/contacts"
PROPERTIES = "/crm/properties/2026-09/contacts"


class MovableClock:
    """Epoch seconds that pass only when a test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True, slots=True)
class HubSpotClient:
    http: httpx2.Client

    def upsert(self, *inputs: dict[str, object]) -> httpx2.Response:
        return self.http.post(UPSERT, json={"inputs": inputs})

    def create_property(self, name: str, type: str, field_type: str, **more: object) -> httpx2.Response:
        definition = {"name": name, "label": name, "type": type, "fieldType": field_type}
        return self.http.post(PROPERTIES, json={"groupName": "contactinformation", **definition, **more})

    def create_key_property(self, name: str = "member_id") -> None:
        assert self.create_property(name, "string", "text", hasUniqueValue=True).status_code == 201


def by_email(email: str, trace_id: str | None = None, /, **properties: object) -> dict[str, object]:
    """An upsert input keyed by address."""
    return _input(email, "email", trace_id, properties)


def by_member(member_id: str, trace_id: str | None = None, /, **properties: object) -> dict[str, object]:
    """An upsert input keyed by the unique property `member_id`."""
    return _input(member_id, "member_id", trace_id, properties)


def _input(key: str, id_property: str, trace_id: str | None, properties: dict[str, object]) -> dict[str, object]:
    wanted: dict[str, object] = {"id": key, "idProperty": id_property, "properties": properties}
    return wanted if trace_id is None else {**wanted, "objectWriteTraceId": trace_id}


@pytest.fixture(scope="session")
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture(scope="session")
def running_sandbox(clock: MovableClock) -> Iterator[Sandbox]:
    with Sandbox(seed=1, clock=clock) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox: Sandbox, clock: MovableClock) -> Sandbox:
    clock.advance(1)
    running_sandbox.reset()
    return running_sandbox


@pytest.fixture(scope="session")
def client(running_sandbox: Sandbox) -> Iterator[HubSpotClient]:
    headers = {"Authorization": "Bearer any-token"}
    with httpx2.Client(base_url=running_sandbox.url, headers=headers, trust_env=False) as http:
        yield HubSpotClient(http)


@pytest.fixture
def hubspot(sandbox: Sandbox, client: HubSpotClient) -> HubSpotClient:
    """A client of the fresh sandbox."""
    return client
