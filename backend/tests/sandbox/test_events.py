"""Custom events: accepted with 204, counted once per uuid, and switches for what nobody knows."""

import pytest

from hubspot_sandbox import Sandbox
from tests.sandbox.conftest import HubSpotClient, MovableClock, by_email

DEFINITIONS = "/events/2026-09/event-definitions"
SEND = "/events/2026-09/send"
OCCURRENCES = "/events/event-occurrences/2026-09"
ADA = "ada@example.com"


@pytest.fixture
def event(hubspot: HubSpotClient) -> str:
    hubspot.upsert(by_email(ADA))
    body = {"label": "Session ended", "includeDefaultProperties": False, "propertyDefinitions": []}
    return hubspot.http.post(DEFINITIONS, json=body).json()["fullyQualifiedName"]


def occurrences(hubspot: HubSpotClient) -> int:
    return len(hubspot.http.get(OCCURRENCES).json()["results"])


def sent(event: str, **fields: object) -> dict[str, object]:
    return {"eventName": event, "email": ADA, "properties": {"kwh": "7"}, **fields}


def test_an_event_counts_once_per_uuid_for_a_year(event: str, hubspot: HubSpotClient, clock: MovableClock) -> None:
    assert event == "pe12345678_session_ended"
    for _ in range(2):
        answer = hubspot.http.post(SEND, json=sent(event, uuid="u1"))
        assert (answer.status_code, answer.content) == (204, b"")
    assert occurrences(hubspot) == 1
    clock.advance(366 * 86_400)
    hubspot.http.post(SEND, json=sent(event, uuid="u1"))
    assert occurrences(hubspot) == 2


def test_what_a_duplicate_gets_is_a_switch(event: str, hubspot: HubSpotClient, sandbox: Sandbox) -> None:
    sandbox.switch(duplicate_event="refused")
    assert [hubspot.http.post(SEND, json=sent(event, uuid="u1")).status_code for _ in range(2)] == [204, 400]


@pytest.mark.parametrize(("switch", "status", "count"), [("refuses_all", 400, 0), ("dropped", 204, 1)])
def test_what_a_bad_event_does_to_its_batch_is_a_switch(
    event: str, hubspot: HubSpotClient, sandbox: Sandbox, switch: str, status: int, count: int
) -> None:
    sandbox.switch(bad_event_in_batch=switch)
    inputs = [sent(event), sent(event, email=None)]
    assert hubspot.http.post(f"{SEND}/batch", json={"inputs": inputs}).status_code == status
    assert occurrences(hubspot) == count


@pytest.mark.parametrize("creates", [True, False])
def test_whether_an_event_creates_a_contact_is_a_switch(
    event: str, hubspot: HubSpotClient, sandbox: Sandbox, creates: bool
) -> None:
    sandbox.switch(event_creates_contact=creates)
    assert hubspot.http.post(SEND, json=sent(event, email="new@example.com")).status_code == 204
    assert (sandbox.contact(email="new@example.com") is not None) == creates


def test_an_unknown_event_is_not_found_and_an_account_without_events_says_so(
    event: str, hubspot: HubSpotClient, sandbox: Sandbox
) -> None:
    assert hubspot.http.post(SEND, json=sent("pe1_unheard_of")).status_code == 404
    sandbox.change(custom_events=False)
    assert hubspot.http.post(SEND, json=sent(event)).json()["category"] == "FORBIDDEN"
