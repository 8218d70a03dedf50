"""Whose contact it is when addresses change, are shared, or belong to another: decided without a search."""

from __future__ import annotations

from datetime import timedelta

import httpx2
import pytest
from sqlalchemy import Engine

from hubspot_sandbox import Sandbox
from hubspot_sandbox.switches import Switches
from tests.hubspot.conftest import HubSpot, settings_for

HEADERS = {"Authorization": "Bearer pat-na1-0"}
CONTACTS = "/crm/objects/2026-09/contacts"


def create(hubspot: HubSpot, **properties: str) -> str:
    """A contact that someone made in HubSpot; its record id."""
    answer = httpx2.post(f"{hubspot.sandbox.url}{CONTACTS}", json={"properties": properties}, headers=HEADERS)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def archive(hubspot: HubSpot, record_id: str) -> None:
    assert httpx2.delete(f"{hubspot.sandbox.url}{CONTACTS}/{record_id}", headers=HEADERS).status_code == 204


def merge(hubspot: HubSpot, *, into: str, loser: str) -> None:
    body = {"primaryObjectId": into, "objectIdToMerge": loser}
    answer = httpx2.post(f"{hubspot.sandbox.url}{CONTACTS}/merge", json=body, headers=HEADERS)
    assert answer.status_code == 200, answer.text


@pytest.fixture(params=["conflict", "coordinates"])
def hubspot(request: pytest.FixtureRequest, engine: Engine) -> HubSpot:
    """Either way in which HubSpot may refuse an address of another contact."""
    sandbox = request.getfixturevalue(f"_sandbox_{request.param}")
    sandbox.reset()
    hubspot = HubSpot(engine, sandbox, settings_for(sandbox))
    hubspot.provision()
    return hubspot


@pytest.fixture(scope="module")
def _sandbox_conflict():
    with Sandbox(seed=1, rate_max=10_000, switches=Switches(email_conflict="conflict")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def _sandbox_coordinates():
    switches = Switches(email_conflict="coordinates", merged_away_keys="kept")
    with Sandbox(seed=1, rate_max=10_000, switches=switches) as sandbox:
        yield sandbox


def test_changed_address_reaches_the_same_contact_with_no_request_more(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="old@example.com")
    hubspot.deliver()
    before, contact = len(hubspot.upserts()), hubspot.sandbox.contact(nerava_user_id="driver-1")
    event_id = hubspot.earn("driver-1", 10, email="new@example.com")
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert len(hubspot.upserts()) == before + 1
    after = hubspot.sandbox.contact(nerava_user_id="driver-1")
    assert contact is not None
    assert after is not None
    assert after["id"] == contact["id"]
    assert after["properties"]["email"] == "new@example.com"
    assert len(hubspot.sandbox.contacts()) == 1


def test_driver_who_signs_up_by_phone_and_gives_an_address_later_stays_one_contact(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", phone="+4930123456")
    hubspot.deliver()
    hubspot.earn("driver-1", 10, email="ada@example.com")
    hubspot.deliver()
    assert len(hubspot.sandbox.contacts()) == 1
    assert (hubspot.contact("driver-1") or {})["email"] == "ada@example.com"


def test_address_of_another_contact_fails_naming_both_and_the_remedy(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", phone="+4930123456")
    hubspot.deliver()
    ours = hubspot.sandbox.contact(nerava_user_id="driver-1")
    assert ours is not None
    theirs = create(hubspot, email="ada@example.com", firstname="Ada")
    bad = hubspot.earn("driver-1", 10, email="ada@example.com")
    good = hubspot.earn("driver-1", 20)
    other = hubspot.sign_up("driver-2", email="grace@example.com")
    hubspot.deliver()
    error = hubspot.row(bad).last_error
    assert hubspot.row(bad).failed_at is not None
    assert f"contact {ours['id']}" in error
    assert f"contact {theirs}" in error
    assert "merge them" in error
    assert "ada@example.com" not in error
    assert hubspot.is_delivered(good)
    assert hubspot.is_delivered(other)
    assert (hubspot.contact("driver-1") or {})["nerava_balance"] == "20"
    merge(hubspot, into=theirs, loser=str(ours["id"]))


def test_marketers_contact_of_this_address_becomes_the_drivers(hubspot: HubSpot) -> None:
    record_id = create(hubspot, email="ada@example.com", firstname="Ada")
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    [contact] = hubspot.sandbox.contacts()
    assert contact["id"] == record_id
    assert contact["properties"]["nerava_user_id"] == "driver-1"
    assert contact["properties"]["firstname"] == "Ada"


def test_secondary_address_finds_its_contact(hubspot: HubSpot) -> None:
    record_id = create(hubspot, email="work@example.com", hs_additional_emails="home@example.com")
    event_id = hubspot.sign_up("driver-1", email="home@example.com")
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert [it["id"] for it in hubspot.sandbox.contacts()] == [record_id]


def test_lost_race_of_a_create_is_sent_once_more_and_hits_the_winner(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("input_lost_race", requests=1)
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert hubspot.row(event_id).attempt_count == 0
    [contact] = hubspot.sandbox.contacts()
    assert contact["properties"]["nerava_user_id"] == "driver-1"


@pytest.mark.parametrize("email", ["ada@example.com", None])
def test_archived_contact_does_not_stop_its_driver(hubspot: HubSpot, email: str | None) -> None:
    known = {"email": email} if email else {"phone": "+4930123456"}
    hubspot.sign_up("driver-1", **known)
    hubspot.deliver()
    contact = hubspot.sandbox.contact(nerava_user_id="driver-1")
    assert contact is not None
    archive(hubspot, str(contact["id"]))
    event_id = hubspot.earn("driver-1", 10, **known)
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert (hubspot.contact("driver-1") or {})["nerava_balance"] == "10"


def test_contact_that_was_merged_away_leads_to_the_one_that_remains(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    ours = hubspot.sandbox.contact(nerava_user_id="driver-1")
    assert ours is not None
    theirs = create(hubspot, email="work@example.com")
    merge(hubspot, into=theirs, loser=str(ours["id"]))
    event_id = hubspot.earn("driver-1", 10, email="ada@example.com")
    for _ in range(4):
        hubspot.deliver()
        hubspot.queue.pass_time(timedelta(minutes=10))
    assert hubspot.is_delivered(event_id), hubspot.row(event_id).last_error
    [contact] = hubspot.sandbox.contacts()
    assert contact["properties"]["nerava_balance"] == "10"


@pytest.mark.parametrize("guilty", [0, 3, 7])
def test_merged_events_are_taken_apart_so_that_only_the_guilty_one_fails_and_nobody_is_charged(
    hubspot: HubSpot, guilty: int
) -> None:
    events = [
        hubspot.earn("driver-1", n, **({"email": "not..an@address..example"} if n == guilty else {})) for n in range(8)
    ]
    hubspot.deliver()
    assert [hubspot.is_delivered(it) for it in events] == [n != guilty for n in range(8)]
    assert [hubspot.row(it).attempt_count for it in events] == [3 if n == guilty else 0 for n in range(8)]
    last = 6 if guilty == 7 else 7
    assert (hubspot.contact("driver-1") or {})["nerava_balance"] == str(last)
    assert len(hubspot.upserts()) <= 7
