"""Events become contacts: what HubSpot has after the worker ran."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from random import Random

import pytest
from sqlalchemy import update

from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sync.delivery import LiveDelivery
from hubspot_sync.dry_run import DryRun
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate, GateShut
from sqlalchemy_outbox.lease import LEASE, Lease
from sqlalchemy_outbox.outcome import Delivered, Postponed
from tests.hubspot.conftest import PORTAL_ID, HubSpot

LONG = timedelta(minutes=10)


def test_driver_with_an_email_becomes_a_contact_of_that_email(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email=" Ada@Example.com", stage="signed_up")
    hubspot.deliver()
    contact = hubspot.sandbox.contact(email="ada@example.com")
    assert contact is not None
    properties = contact["properties"]
    assert properties["nerava_user_id"] == "driver-1"
    assert properties["nerava_signed_up_at"] == "2026-11-24T18:00:00.000Z"
    assert properties["nerava_auth_provider"] == "otp"
    assert properties["nerava_stage"] == "signed_up"


def test_driver_without_an_email_becomes_a_contact_by_our_id(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", phone="+4930123456")
    hubspot.deliver()
    contact = hubspot.contact("driver-1")
    assert contact is not None
    assert contact["phone"] == "+4930123456"
    assert not contact.get("email")


def test_events_of_a_driver_are_merged_in_order_into_one_input(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    events = [hubspot.earn("driver-1", total, email="ada@example.com") for total in (10, 30, 60)]
    hubspot.deliver()
    assert [it["inputs"] for it in hubspot.upserts()] == [1]
    contact = hubspot.contact("driver-1")
    assert contact is not None
    assert contact["nerava_lifetime_earned"] == "60"
    assert all(hubspot.is_delivered(it) for it in events)


def test_property_that_an_event_does_not_set_stays_as_it_is(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com", phone="+4930123456")
    hubspot.deliver()
    hubspot.earn("driver-1", 10, email="ada@example.com")
    hubspot.deliver()
    contact = hubspot.contact("driver-1")
    assert contact is not None
    assert contact["phone"] == "+4930123456"
    assert contact["nerava_signed_up_at"] == "2026-11-24T18:00:00.000Z"


def test_repeated_delivery_changes_nothing(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.earn("driver-1", 10, email="ada@example.com")
    hubspot.sandbox.faults.add("reset_after_applying", requests=1, path="/batch/upsert")
    hubspot.deliver()
    assert len(hubspot.upserts()) == 2
    assert len(hubspot.sandbox.contacts()) == 1
    contact = hubspot.contact("driver-1")
    assert contact is not None
    assert contact["nerava_balance"] == "10"


def test_drivers_with_and_without_an_email_share_a_request(hubspot: HubSpot) -> None:
    for n in range(6):
        hubspot.sign_up(
            f"driver-{n}", **({"email": f"driver-{n}@example.com"} if n % 2 else {"phone": f"+49301234{n}"})
        )
    hubspot.deliver()
    assert [request["inputs"] for request in hubspot.upserts()] == [6]
    assert all(hubspot.contact(f"driver-{n}") for n in range(6))


def test_two_drivers_of_one_address_go_in_different_requests(hubspot: HubSpot) -> None:
    """Of two in one request HubSpot would refuse one, or both; the last one has the address in the end."""
    first = hubspot.sign_up("driver-1", email="shared@example.com")
    second = hubspot.sign_up("driver-2", email="Shared@example.com")
    hubspot.deliver()
    assert hubspot.is_delivered(first)
    assert hubspot.is_delivered(second)
    contact = hubspot.sandbox.contact(email="shared@example.com")
    assert contact is not None
    assert contact["properties"]["nerava_user_id"] == "driver-2"


def test_event_that_hubspot_refuses_fails_alone_with_its_reason(hubspot: HubSpot) -> None:
    """The sandbox, like HubSpot, is stricter about addresses than we are."""
    good = hubspot.sign_up("driver-1", email="ada@example.com")
    bad = hubspot.sign_up("driver-2", email="not..an@address..example")
    hubspot.deliver()
    assert hubspot.is_delivered(good)
    row = hubspot.row(bad)
    assert row.failed_at is not None
    assert "INVALID_EMAIL" in row.last_error or "is invalid" in row.last_error


def test_event_whose_stored_payload_is_no_json_fails_alone(hubspot: HubSpot) -> None:
    """As one that was stored before payloads were checked."""
    good = hubspot.sign_up("driver-1", email="ada@example.com")
    bad = hubspot.sign_up("driver-2", email="bob@example.com")
    events = OUTBOX.events
    with hubspot.engine.begin() as connection:
        connection.execute(update(events).where(events.c.event_id == bad).values(payload="no JSON"))
    hubspot.deliver()
    assert hubspot.is_delivered(good)
    assert hubspot.row(good).attempt_count == 0
    row = hubspot.row(bad)
    assert row.failed_at is not None
    assert row.last_error.startswith("payload is no JSON")


def test_only_the_guilty_one_of_a_drivers_merged_events_fails(hubspot: HubSpot) -> None:
    events = [
        hubspot.sign_up("driver-1", phone="+4930123456"),
        hubspot.earn("driver-1", 10, email="not..an@address..example"),
        hubspot.earn("driver-1", 30),
    ]
    for _ in range(8):
        hubspot.deliver()
        hubspot.queue.pass_time(LONG)
    assert [hubspot.is_delivered(it) for it in events] == [True, False, True]
    assert hubspot.row(events[1]).failed_at is not None
    contact = hubspot.contact("driver-1")
    assert contact is not None
    assert contact["nerava_lifetime_earned"] == "30"


def test_event_that_cannot_be_read_fails_and_is_not_sent(hubspot: HubSpot) -> None:
    event_id = hubspot.track("nova_earned", {"user_id": "driver-1", "amount": "many"})
    hubspot.deliver()
    row = hubspot.row(event_id)
    assert row.failed_at is not None
    assert "amount" in row.last_error
    assert hubspot.upserts() == []


@pytest.mark.parametrize("version", ["v3", "2026-03", "2026-09"])
def test_every_api_version_is_spoken(hubspot: HubSpot, version: str) -> None:
    hubspot.settings = hubspot.settings.model_copy(update={"hubspot_api_version": version})
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)


def test_backlog_of_distinct_drivers_needs_one_request_for_fifty_events(hubspot: HubSpot) -> None:
    for n in range(200):
        hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com")
    hubspot.deliver()
    assert [it["inputs"] for it in hubspot.upserts()] == [50, 50, 50, 50]


async def test_dry_run_that_is_under_way_uses_no_event_up_once_a_person_holds_the_gate(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    gate = Gate(OUTBOX, hubspot.engine, requests_per_second=1000)
    await gate.prepare()
    token, events = hubspot.queue.claim()
    claim = Claim(Lease(token, time.monotonic() + LEASE.total_seconds()), events)
    assert [it.event_id for it in events] == [event_id]
    operations.hold(hubspot.engine, OUTBOX, "going live", by="cli:ada")
    with pytest.raises(GateShut, match="going live"):
        await DryRun(CATALOG)(claim, gate)
    operations.release(hubspot.engine, OUTBOX, by="cli:ada")
    assert await DryRun(CATALOG)(claim, gate) == {events[0].id: Delivered(dry_run=True)}


async def test_what_got_through_before_the_lease_ended_is_delivered_all_the_same(hubspot: HubSpot) -> None:
    first = hubspot.sign_up("driver-1", email="ada@example.com")
    second = hubspot.sign_up("driver-2", email="ada@example.com")
    gate = Gate(OUTBOX, hubspot.engine, requests_per_second=1000)
    await gate.prepare()
    token, events = hubspot.queue.claim()
    assert [it.event_id for it in events] == [first, second]
    # The first request takes all the time there is.
    lease = Lease(token, LEASE.total_seconds(), clock=lambda: LEASE.total_seconds() * len(hubspot.upserts()))
    async with hubspot.integration.client() as client:
        deliver = LiveDelivery(client, CATALOG, PORTAL_ID, daily_reserve=0, random=Random())
        outcomes = await deliver(Claim(lease, events), gate)
    assert outcomes == {events[0].id: Delivered(), events[1].id: Postponed()}
    assert len(hubspot.upserts()) == 1


async def test_nothing_is_sent_past_a_lease_that_the_look_at_the_account_used_up(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    gate = Gate(OUTBOX, hubspot.engine, requests_per_second=1000)
    await gate.prepare()
    token, events = hubspot.queue.claim()
    assert [it.event_id for it in events] == [event_id]

    def looks() -> int:
        return sum("account-info" in it["path"] for it in hubspot.sandbox.requests())

    before = looks()
    # Whoever looks at the account takes all the time there is.
    lease = Lease(token, LEASE.total_seconds(), clock=lambda: LEASE.total_seconds() * (looks() - before))
    async with hubspot.integration.client() as client:
        deliver = LiveDelivery(client, CATALOG, PORTAL_ID, daily_reserve=0, random=Random())
        assert await deliver(Claim(lease, events), gate) == {events[0].id: Postponed()}
    assert looks() == before + 1
    assert hubspot.upserts() == []


async def test_slots_that_passed_during_the_look_at_the_account_are_not_used_together(hubspot: HubSpot) -> None:
    for n in range(4):
        hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com")
    hubspot.sandbox.faults.add("slow", path="/account-info", requests=1, delay=1.0)
    gate = Gate(OUTBOX, hubspot.engine, requests_per_second=5)
    await gate.prepare()
    claims = [hubspot.queue.claim(limit=1) for _ in range(4)]
    async with hubspot.integration.client() as client:
        deliver = LiveDelivery(client, CATALOG, PORTAL_ID, daily_reserve=0, random=Random())
        leases = [Lease(token, time.monotonic() + LEASE.total_seconds()) for token, _ in claims]
        await asyncio.gather(
            *(deliver(Claim(lease, events), gate) for lease, (_, events) in zip(leases, claims, strict=True))
        )
    arrived = [
        datetime.fromisoformat(it["time"]).timestamp() for it in hubspot.sandbox.requests() if "upsert" in it["path"]
    ]
    assert len(arrived) == 4
    assert max(arrived) - min(arrived) > 0.4, "the slots of four lie 0.6 s apart"


def test_dry_run_logs_a_line_per_event_and_sends_nothing(hubspot: HubSpot, caplog: pytest.LogCaptureFixture) -> None:
    before = len(hubspot.sandbox.requests())
    hubspot.settings = hubspot.settings.model_copy(update={"hubspot_send_live": False})
    events = [hubspot.sign_up("driver-1", email="ada@example.com"), hubspot.earn("driver-1", 10)]
    with caplog.at_level("INFO"):
        hubspot.deliver()
    lines = [it.getMessage() for it in caplog.records if it.getMessage().startswith("[DRY-RUN]")]
    assert len(lines) == 2
    for line, event_id in zip(lines, events, strict=True):
        assert str(event_id) in line
        assert "ada@example.com" not in line
    assert all(hubspot.row(it).dry_run for it in events)
    assert len(hubspot.sandbox.requests()) == before
    hubspot.settings = hubspot.settings.model_copy(update={"hubspot_send_live": True})
    hubspot.deliver()
    assert hubspot.contact("driver-1") is None


def test_event_retried_by_hand_never_moves_the_contact_backwards(hubspot: HubSpot) -> None:
    """The retried one was refused for its address; what newer events said in the meantime stands."""
    old = hubspot.track(
        "nova_redeemed",
        {
            "user_id": "driver-1",
            "email": "not..an@address..example",
            "amount": 5,
            "merchant_id": "merchant-9",
            "redemption_id": "r-1",
            "redeemed_at": "2026-11-24T18:30:00Z",
            "new_balance": 5,
        },
    )
    hubspot.deliver()
    assert hubspot.row(old).failed_at is not None
    hubspot.earn("driver-1", 60, email="ada@example.com")
    hubspot.deliver()
    hubspot.queue.retry(hubspot.row(old).id)
    hubspot.deliver()
    assert hubspot.is_delivered(old)
    contact = hubspot.contact("driver-1")
    assert contact is not None
    assert contact["email"] == "ada@example.com"
    assert contact["nerava_balance"] == "60"
    assert contact["nerava_last_merchant_id"] == "merchant-9"
