"""Whatever HubSpot answers: nothing is lost, nobody is charged for the day, and the contact is right in the end."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from hubspot_sandbox import Sandbox
from sqlalchemy_outbox.model import GateState
from tests.hubspot.conftest import HubSpot, settings_for

LONG = timedelta(minutes=10)
OUTAGES = [
    "down",
    "reset",
    "reset_after_applying",
    "server_error",
    "bad_gateway",
    "unavailable",
    "gateway_timeout",
    "gateway_timeout_after_applying",
    "blocked",
    "cdn_page",
    "request_timeout",
    "empty_body",
    "html_body",
    "malformed_body",
    "truncated_body",
]


@pytest.mark.parametrize("kind", OUTAGES)
def test_outage_longer_than_any_backoff_fails_and_charges_nothing(hubspot: HubSpot, kind: str) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add(kind)
    for _ in range(4):
        hubspot.deliver()
        assert hubspot.row(event_id).attempt_count == 0
        hubspot.queue.pass_time(LONG)
    assert hubspot.gate().state is GateState.THROTTLED
    assert (hubspot.gate().reason or "").startswith("outage")
    hubspot.sandbox.faults.clear()
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert hubspot.gate().state is GateState.OPEN
    assert len(hubspot.sandbox.contacts()) == 1


def test_short_trouble_is_overcome_without_shutting_the_gate(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    again = hubspot.earn("driver-1", 10, email="ada@example.com")
    hubspot.sandbox.faults.add("bad_gateway", requests=2, path="/batch/upsert")
    hubspot.deliver()
    assert hubspot.is_delivered(again)
    assert hubspot.row(again).attempt_count == 0


@pytest.mark.parametrize("kind", ["throttle", "throttle_daily", "throttle_secondly", "migrating"])
def test_throttle_makes_everyone_wait_and_charges_nobody(hubspot: HubSpot, kind: str) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add(kind)
    hubspot.deliver()
    assert hubspot.gate().state is GateState.THROTTLED
    requests = len(hubspot.sandbox.requests())
    hubspot.deliver()
    assert len(hubspot.sandbox.requests()) == requests
    assert hubspot.row(event_id).attempt_count == 0
    hubspot.sandbox.faults.clear()
    hubspot.queue.pass_time(timedelta(days=1))
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)


@pytest.mark.parametrize("kind", ["throttle", "throttle_daily"])
def test_retry_after_is_obeyed(hubspot: HubSpot, kind: str) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add(kind, requests=1, retry_after=77)
    hubspot.deliver()
    assert 60 < hubspot.gate().wait_seconds <= 78


def test_retry_after_is_obeyed_too_where_it_is_one_input_that_is_throttled(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    error = {"category": "RATE_LIMITS", "message": "limit", "context": {"id": ["ada@example.com"]}}
    body, headers = {"status": "COMPLETE", "results": [], "errors": [error]}, {"retry-after": "77"}
    hubspot.sandbox.faults.add("custom", path="/batch/upsert", status=207, body=json.dumps(body), headers=headers)
    hubspot.deliver()
    assert 60 < hubspot.gate().wait_seconds <= 78


def test_throttle_that_names_no_time_lasts_longer_each_time_until_an_answer_comes(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    with hubspot.one_worker() as deliver:
        for expected in (1, 2, 4, 8, 10, 10):
            hubspot.sandbox.faults.add("throttle", requests=1, path="/batch/upsert")
            deliver()
            # A slow machine has used up some of it by now.
            assert expected / 2 - 0.5 < hubspot.gate().wait_seconds <= expected + 1
            hubspot.queue.pass_time(LONG)
        deliver()
        hubspot.sign_up("driver-2", email="grace@example.com")
        hubspot.sandbox.faults.add("throttle", requests=1, path="/batch/upsert")
        deliver()
        assert hubspot.gate().wait_seconds <= 2


@pytest.mark.parametrize(
    "body",
    [
        {"message": "You have reached your daily limit.", "policyName": "DAILY"},
        {"message": "You have reached your limit.", "policyName": "DAILY"},
        {"message": "You have reached your daily limit."},
    ],
    ids=["policy and words", "policy", "words"],
)
def test_daily_limit_waits_for_midnight_in_the_accounts_time_zone(hubspot: HubSpot, body: dict[str, str]) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("custom", requests=1, path="/batch/upsert", status=429, body=json.dumps(body))
    hubspot.deliver()
    gate = hubspot.gate()
    assert gate.until is not None
    assert 0 < gate.wait_seconds <= 24 * 3600
    local = gate.until.astimezone(ZoneInfo("US/Eastern"))
    assert (local.hour, local.minute) in ((0, 0), (23, 59))


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("revoked", "HUBSPOT_PRIVATE_APP_TOKEN"),
        ("expired", "HUBSPOT_PRIVATE_APP_TOKEN"),
        ("missing_scopes", "crm.objects.contacts.write"),
        ("wrong_hublet", "HUBSPOT_BASE_URL"),
    ],
)
def test_what_only_a_person_can_mend_holds_everything_and_names_the_remedy(
    hubspot: HubSpot, kind: str, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(120)]
    hubspot.sandbox.faults.add(kind)
    hubspot.deliver()
    gate = hubspot.gate()
    assert gate.state is GateState.HELD
    assert remedy in (gate.reason or "")
    assert len([it for it in caplog.records if "held" in it.getMessage()]) == 1
    assert all(hubspot.row(it).attempt_count == 0 for it in events)
    hubspot.sandbox.faults.clear()
    hubspot.queue.pass_time(LONG)
    hubspot.deliver()
    assert hubspot.gate().state is GateState.OPEN
    assert all(hubspot.is_delivered(it) for it in events)


def test_account_that_was_not_provisioned_holds_and_names_the_properties(bare_hubspot: HubSpot) -> None:
    event_id = bare_hubspot.sign_up("driver-1", email="ada@example.com")
    bare_hubspot.deliver()
    gate = bare_hubspot.gate()
    assert gate.state is GateState.HELD
    assert "nerava_user_id" in (gate.reason or "")
    assert bare_hubspot.row(event_id).attempt_count == 0
    bare_hubspot.provision()
    bare_hubspot.queue.pass_time(LONG)
    bare_hubspot.deliver()
    assert bare_hubspot.is_delivered(event_id)


def test_nothing_is_written_to_another_account_than_the_one_that_was_meant(hubspot: HubSpot) -> None:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_portal_id="999")
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    gate = hubspot.gate()
    assert gate.state is GateState.HELD
    assert "12345678" in (gate.reason or "")
    assert "999" in (gate.reason or "")
    assert hubspot.upserts() == []
    assert hubspot.row(event_id).attempt_count == 0


def test_account_that_is_asked_for_in_vain_once_costs_nothing(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("server_error", requests=1, path="/account-info")
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert hubspot.gate().state is GateState.OPEN


@pytest.mark.parametrize(
    ("fault", "state", "says"),
    [
        ({"kind": "down"}, GateState.THROTTLED, "the connection was cut off"),
        ({"kind": "html_body"}, GateState.THROTTLED, "no JSON that names the portal"),
        ({"kind": "custom", "status": 423}, GateState.HELD, "423"),
        ({"kind": "custom", "status": 409}, GateState.HELD, "409"),
    ],
    ids=["no answer", "no JSON", "locked", "conflict"],
)
def test_nothing_is_written_to_an_account_that_is_not_known(
    hubspot: HubSpot, fault: dict[str, Any], state: GateState, says: str
) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add(**fault, path="/account-info")
    hubspot.deliver()
    assert hubspot.gate().state is state
    assert says in (hubspot.gate().reason or "")
    assert hubspot.upserts() == []
    assert hubspot.row(event_id).attempt_count == 0


def test_account_is_looked_at_again_after_a_hold(hubspot: HubSpot) -> None:
    """A person who mends what is held may have set another token."""
    with hubspot.one_worker() as deliver:
        hubspot.sign_up("driver-1", email="ada@example.com")
        hubspot.sandbox.faults.add("revoked", requests=1, path="/batch/upsert")
        deliver()
        assert hubspot.gate().state is GateState.HELD
        hubspot.sandbox.faults.add("wrong_portal")
        hubspot.queue.pass_time(LONG)
        deliver()
    assert "HUBSPOT_PORTAL_ID" in (hubspot.gate().reason or "")
    assert [it["status"] for it in hubspot.upserts()] == [401]


def test_outage_ends_with_a_probe_that_hubspot_answers_with_a_refusal(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("server_error", path="/batch/upsert")
    hubspot.deliver()
    assert hubspot.gate().state is GateState.THROTTLED
    hubspot.sandbox.faults.clear()
    hubspot.sandbox.faults.add("refused", path="/batch/upsert")
    hubspot.queue.pass_time(LONG)
    hubspot.deliver()
    assert hubspot.row(event_id).failed_at is not None
    assert hubspot.gate().state is GateState.OPEN


def test_event_whose_probe_got_no_answer_is_not_due_before_the_next_probe(hubspot: HubSpot) -> None:
    """Or it would take all of them, and keep every other event waiting."""
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("server_error", path="/batch/upsert")
    hubspot.deliver()
    hubspot.queue.pass_time(LONG)
    hubspot.deliver()
    next_probe_at = hubspot.gate().until
    assert next_probe_at is not None
    assert hubspot.row(event_id).available_at > next_probe_at - timedelta(seconds=0.5)


def test_limits_that_an_error_page_tells_of_are_not_believed(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    headers = {"x-hubspot-ratelimit-daily": "100", "x-hubspot-ratelimit-daily-remaining": "0"}
    hubspot.sandbox.faults.add("custom", path="/batch/upsert", requests=1, status=502, headers=headers)
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)


@pytest.mark.parametrize("kind", ["empty_results", "canceled"])
def test_input_that_no_result_names_is_not_delivered(hubspot: HubSpot, kind: str) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add(kind, path="/batch/upsert")
    hubspot.deliver()
    assert not hubspot.is_delivered(event_id)
    assert hubspot.row(event_id).attempt_count == 0
    hubspot.sandbox.faults.clear()
    hubspot.queue.pass_time(LONG)
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert len(hubspot.sandbox.contacts()) == 1


def test_answer_that_does_not_come_in_time_is_an_unknown_outcome_and_repeated(
    hubspot: HubSpot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubspot_sync.client.REQUEST_DEADLINE", timedelta(milliseconds=300))
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("slow", requests=1, delay=1.0, path="/batch/upsert")
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert hubspot.row(event_id).attempt_count == 0
    assert len(hubspot.sandbox.contacts()) == 1


def test_locked_record_is_waited_for(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("locked", requests=1, path="/batch/upsert")
    hubspot.deliver()
    assert hubspot.row(event_id).attempt_count == 0
    hubspot.queue.pass_time(timedelta(seconds=3))
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)


def test_request_that_is_too_large_is_divided(hubspot: HubSpot) -> None:
    events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(8)]
    hubspot.sandbox.faults.add("too_large", path="/batch/upsert")
    hubspot.deliver()
    assert all(hubspot.is_delivered(it) for it in events)
    assert len(hubspot.upserts()) == 15


def test_half_of_a_request_that_is_too_large_may_be_small_enough(hubspot: HubSpot) -> None:
    events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(8)]
    hubspot.sandbox.faults.add("too_large", requests=1, path="/batch/upsert")
    hubspot.deliver()
    assert all(hubspot.is_delivered(it) for it in events)
    assert [it["inputs"] for it in hubspot.upserts()] == [8, 4, 4]


def test_token_appears_in_no_log_and_no_stored_error(hubspot: HubSpot, caplog: pytest.LogCaptureFixture) -> None:
    secret = "pat-na1-very-secret-0123"
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_private_app_token=secret)
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    with caplog.at_level("DEBUG"):
        for kind in ("revoked", "bad_gateway", "down"):
            hubspot.sandbox.faults.add(kind, requests=2)
            hubspot.deliver()
            hubspot.queue.pass_time(LONG)
        hubspot.sandbox.faults.clear()
        hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert secret not in caplog.text
    assert secret not in repr(hubspot.settings)
    assert "ada@example.com" not in caplog.text


def test_limit_that_our_rate_exceeds_slows_the_worker_and_costs_no_event(engine: Engine) -> None:
    with Sandbox(seed=1, rate_max=24) as strict:
        hubspot = HubSpot(engine, strict, settings_for(strict, hubspot_batch_size=1))
        hubspot.provision()
        events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(10)]
        for _ in range(20):
            hubspot.deliver()
            hubspot.queue.pass_time(LONG)
            if all(hubspot.is_delivered(it) for it in events):
                break
            strict.run(lambda account: account._rolling_limits.clear())
        assert all(hubspot.is_delivered(it) for it in events)
        assert all(hubspot.row(it).attempt_count == 0 for it in events)
        assert any(it["status"] == 429 for it in strict.requests())
