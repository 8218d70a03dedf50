"""A look at one contact: what was last sent, what HubSpot has, and where they differ."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from hubspot_sandbox import Account
from hubspot_sync.contact import ContactView, Presence, Value, look_at_contact
from hubspot_sync.redaction import PERSONAL
from tests.hubspot.conftest import HubSpot, settings_for


def look(hubspot: HubSpot, subject: str = "driver-1") -> ContactView:
    return asyncio.run(look_at_contact(hubspot.integration, subject))


def value(view: ContactView, name: str) -> Value:
    return next(it for it in view.values if it.property.name == name)


def tamper(hubspot: HubSpot, **properties: str) -> None:
    """Change the contact in HubSpot, as a marketer would."""

    def change(account: Account) -> None:
        contact = account.contacts.find("nerava_user_id", "driver-1")
        assert contact is not None
        account.contacts.update(contact, properties, account.clock())

    hubspot.sandbox.run(change)


def delete(hubspot: HubSpot) -> None:
    def archive(account: Account) -> None:
        contact = account.contacts.find("nerava_user_id", "driver-1")
        assert contact is not None
        account.contacts.archive(contact, account.clock())

    hubspot.sandbox.run(archive)


def test_each_property_has_its_newest_value_and_the_event_that_sent_it(hubspot: HubSpot) -> None:
    signed_up = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.earn("driver-1", 10)
    earned = hubspot.earn("driver-1", 20)
    hubspot.deliver()
    view = look(hubspot)
    assert (view.contact.presence, view.contact.found_by) == (Presence.FOUND, "nerava_user_id")
    assert view.contact.record_id == hubspot.sandbox.contact(email="ada@example.com")["id"]
    assert (value(view, "nerava_balance").sent, value(view, "nerava_balance").sent_by) == ("20", earned)
    assert value(view, "email").sent_by == signed_up
    assert view.differences == []
    assert [it.event_type for it in view.events] == ["driver_signed_up", "nova_earned", "nova_earned"]
    assert value(view, "nerava_first_redemption_at") == Value(value(view, "nerava_first_redemption_at").property)


def test_what_was_changed_in_hubspot_differs_with_both_values(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.earn("driver-1", 20)
    hubspot.deliver()
    tamper(hubspot, nerava_balance="5")
    [balance] = look(hubspot).differences
    assert (balance.property.name, balance.sent, balance.found) == ("nerava_balance", "20", "5")


def test_what_hubspot_writes_in_another_way_does_not_differ(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com", phone="+49 170 1234567")
    hubspot.earn("driver-1", 20)
    hubspot.deliver()
    tamper(hubspot, nerava_balance="20.0", phone="+491701234567")
    assert look(hubspot).differences == []


def test_value_that_nothing_can_be_compared_with_differs(hubspot: HubSpot) -> None:
    hubspot.earn("driver-1", 20)
    hubspot.deliver()
    tamper(hubspot, nerava_balance="sNaN", nerava_lifetime_earned="Infinity")
    assert {it.found for it in look(hubspot).differences} == {"sNaN", "Infinity"}


def test_contact_that_was_deleted_is_missing_and_all_that_was_sent_differs(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    delete(hubspot)
    view = look(hubspot)
    assert view.contact.presence is Presence.MISSING
    assert {it.property.name for it in view.differences} == {it.property.name for it in view.values if it.sent}


def test_contact_that_lacks_our_id_is_found_by_its_email(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    tamper(hubspot, nerava_user_id="driver-2")
    view = look(hubspot)
    assert (view.contact.presence, view.contact.found_by) == (Presence.FOUND, "email")
    [key] = view.differences
    assert (key.property.name, key.sent, key.found) == ("nerava_user_id", "driver-1", "driver-2")


def test_what_a_dry_run_used_up_was_not_sent(hubspot: HubSpot) -> None:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_send_live=False)
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    view = look(hubspot)
    assert view.contact.presence is Presence.MISSING
    assert [it for it in view.values if it.sent] == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "down"}, "the connection was cut off"),
        ({"kind": "revoked"}, "401"),
        ({"kind": "empty_body"}, "names no"),
    ],
)
def test_hubspot_that_does_not_answer_is_said_and_nothing_differs(
    hubspot: HubSpot, fault: dict[str, str], reason: str
) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    hubspot.sandbox.faults.add(**fault)
    view = look(hubspot)
    assert view.contact.presence is Presence.UNKNOWN
    assert reason in view.contact.reason
    assert "ada@example.com" not in view.contact.reason
    assert value(view, "email").sent == "ada@example.com"
    assert view.differences == []


def test_throttled_gate_keeps_the_question_back_and_says_so(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    asyncio.run(hubspot.integration.gate().throttle(timedelta(minutes=5), "429: TEN_SECONDLY_ROLLING"))
    view = look(hubspot)
    assert (view.contact.presence, view.contact.reason) == (Presence.UNKNOWN, "throttled: 429: TEN_SECONDLY_ROLLING")


def test_without_a_token_only_what_was_sent_is_known(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_private_app_token="")
    view = look(hubspot)
    assert view.contact.presence is Presence.UNKNOWN
    assert "HUBSPOT_PRIVATE_APP_TOKEN" in view.contact.reason
    assert value(view, "nerava_user_id").sent == "driver-1"


def test_redacted_view_tells_that_personal_values_differ_and_not_what_they_are(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com", phone="+491701234567")
    hubspot.deliver()
    tamper(hubspot, phone="+491709999999")
    view = look(hubspot).redacted()
    [phone] = view.differences
    assert (phone.sent, phone.found) == (PERSONAL, PERSONAL)
    shown = json.dumps(view.as_json()) + repr(view) + repr(look(hubspot))
    assert not any(it in shown for it in ("ada@", "70123", "70999"))
    assert replace(view, values=[]).as_json()["hubspot"]["presence"] == "found"
