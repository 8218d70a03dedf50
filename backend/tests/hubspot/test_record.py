"""Why a contact is as it is: every upsert request is kept, with HubSpot's answer and what it meant for each event."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.hubspot.conftest import HubSpot

LONG = timedelta(minutes=10)


def test_request_that_got_through_names_the_contact_of_each_event(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sign_up("driver-2", email="bob@example.com")
    hubspot.deliver()
    [(kept, outcomes)] = hubspot.deliveries()
    assert (kept.endpoint, kept.events, kept.status, kept.outcome) == ("contacts/batch/upsert", 2, 200, "delivered")
    assert (kept.category, kept.error) == (None, None)
    assert kept.duration_ms >= 0
    ids = [hubspot.sandbox.contact(email=f"{name}@example.com")["id"] for name in ("ada", "bob")]  # type: ignore[index]
    assert outcomes == [f"delivered to contact {it}" for it in ids]


def test_refused_input_is_kept_with_hubspots_words_beside_those_that_got_through(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    bad = hubspot.sign_up("driver-2", email="not..an@address..example")
    hubspot.deliver()
    [(kept, [of_good, of_bad])] = hubspot.deliveries()
    assert (kept.status, kept.category, kept.outcome) == (207, "VALIDATION_ERROR", "partly delivered")
    assert of_good.startswith("delivered")
    assert of_bad == hubspot.row(bad).last_error.replace("HubSpot refused it", "refused")
    assert "address..example" not in str(hubspot.deliveries())


def test_request_that_is_refused_whole_is_kept_and_so_are_those_it_is_divided_into(hubspot: HubSpot) -> None:
    for name in ("ada", "bob"):
        hubspot.sign_up(name, email=f"{name}@example.com")
    hubspot.sandbox.faults.add("too_large", requests=1, path="/batch/upsert")
    hubspot.deliver()
    (whole, of_both), *halves = hubspot.deliveries()
    assert (whole.status, whole.outcome, of_both) == (413, "refused", ["refused in a request of 2"] * 2)
    assert [kept.outcome for kept, _ in halves] == ["delivered"] * 2


@pytest.mark.parametrize(
    ("fault", "status", "outcome"),
    [
        ("throttle", 429, "throttled"),
        ("revoked", 401, "held"),
        ("bad_gateway", 502, "no usable answer"),
        ("reset_after_applying", None, "no answer"),
    ],
)
def test_what_holds_everyone_back_is_kept_for_the_events_that_met_it(
    hubspot: HubSpot, fault: str, status: int | None, outcome: str
) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add(fault, requests=1, path="/batch/upsert")
    hubspot.deliver()
    hubspot.queue.pass_time(LONG)
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    (refused, [of_event]), (delivered, _) = hubspot.deliveries()
    assert (refused.status, refused.outcome, of_event) == (status, outcome, outcome)
    assert refused.error
    assert delivered.outcome == "delivered"
