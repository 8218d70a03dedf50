"""Faults on request: each does what its name says, for as long as it was asked to."""

import time

import httpx2
import pytest

from hubspot_sandbox import FaultKind, Sandbox
from hubspot_sandbox.server import STOP_SECONDS_MAX
from tests.sandbox.conftest import HubSpotClient, MovableClock, by_email

DETAILS = "/account-info/2026-09/details"


@pytest.mark.parametrize("kind", [FaultKind.DOWN, FaultKind.RESET])
def test_a_reset_connection_applies_nothing(sandbox: Sandbox, hubspot: HubSpotClient, kind: FaultKind) -> None:
    sandbox.faults.add(kind, requests=1)
    with pytest.raises(httpx2.ReadError):
        hubspot.upsert(by_email("ada@example.com"))
    assert sandbox.contacts() == []
    assert hubspot.upsert(by_email("ada@example.com")).status_code == 200


def test_a_reset_after_applying_leaves_the_write(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add(FaultKind.RESET_AFTER_APPLYING, requests=1)
    with pytest.raises(httpx2.ReadError):
        hubspot.upsert(by_email("ada@example.com"))
    assert sandbox.contact(email="ada@example.com") is not None
    assert sandbox.requests()[-1]["status"] is None


def test_a_gateway_timeout_after_applying_leaves_the_write(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add(FaultKind.GATEWAY_TIMEOUT_AFTER_APPLYING, requests=1)
    answer = hubspot.upsert(by_email("ada@example.com"))
    assert answer.status_code == 524
    assert answer.headers["content-type"].startswith("text/html")
    assert sandbox.contact(email="ada@example.com") is not None


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FaultKind.SERVER_ERROR, 500),
        (FaultKind.BAD_GATEWAY, 502),
        (FaultKind.UNAVAILABLE, 503),
        (FaultKind.GATEWAY_TIMEOUT, 504),
        (FaultKind.BLOCKED, 403),
    ],
)
def test_the_cdn_answers_in_html_and_applies_nothing(
    sandbox: Sandbox, hubspot: HubSpotClient, kind: FaultKind, status: int
) -> None:
    sandbox.faults.add(kind, requests=1)
    answer = hubspot.upsert(by_email("ada@example.com"))
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<!DOCTYPE html>")
    assert sandbox.contacts() == []


@pytest.mark.parametrize(
    ("kind", "status", "field", "value"),
    [
        (FaultKind.THROTTLE, 429, "policyName", "TEN_SECONDLY_ROLLING"),
        (FaultKind.THROTTLE_DAILY, 429, "policyName", "DAILY"),
        (FaultKind.THROTTLE_SECONDLY, 429, "category", "RATE_LIMITS"),
        (FaultKind.LOCKED, 423, "status", "error"),
        (FaultKind.MIGRATING, 477, "status", "error"),
        (FaultKind.WRONG_HUBLET, 488, "status", "error"),
        (FaultKind.REVOKED, 401, "category", "INVALID_AUTHENTICATION"),
        (FaultKind.EXPIRED, 401, "category", "EXPIRED_AUTHENTICATION"),
        (FaultKind.MISSING_SCOPES, 403, "category", "MISSING_SCOPES"),
        (FaultKind.EMPTY_RESULTS, 200, "results", []),
        (FaultKind.CANCELED, 200, "status", "CANCELED"),
    ],
)
def test_hubspots_own_refusals_are_json_and_apply_nothing(
    sandbox: Sandbox, hubspot: HubSpotClient, kind: FaultKind, status: int, field: str, value: object
) -> None:
    sandbox.faults.add(kind, requests=1)
    answer = hubspot.upsert(by_email("ada@example.com", "1"))
    assert answer.status_code == status
    assert answer.json()[field] == value
    assert sandbox.contacts() == []


def test_a_batch_that_is_too_large_passes_one_by_one(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add(FaultKind.TOO_LARGE)
    inputs = [by_email("ada@example.com"), by_email("bob@example.com")]
    assert hubspot.upsert(*inputs).status_code == 413
    assert [hubspot.upsert(one).status_code for one in inputs] == [200, 200]


def test_a_slow_answer_comes_after_the_work_is_done(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add(FaultKind.SLOW, delay=60)
    with pytest.raises(httpx2.ReadTimeout):
        hubspot.http.patch("/crm/objects/2026-09/contacts/1", json={"properties": {}}, timeout=0.05)
    assert sandbox.requests()[-1]["fault"] == "slow"
    assert sandbox.requests()[-1]["status"] == 404


def test_a_sandbox_stops_without_waiting_for_slow_answers(clock: MovableClock) -> None:
    with Sandbox(clock=clock) as sandbox:
        sandbox.faults.add(FaultKind.SLOW, delay=600)
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.get(sandbox.url + DETAILS, timeout=0.05, trust_env=False)
        stopping_since = time.monotonic()
    assert time.monotonic() - stopping_since < STOP_SECONDS_MAX


def test_a_throttle_may_carry_retry_after(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add(FaultKind.THROTTLE, requests=1, retry_after=7)
    assert hubspot.http.get(DETAILS).headers["retry-after"] == "7"


def test_a_fault_by_requests_ends_after_them(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add(FaultKind.BAD_GATEWAY, requests=2)
    assert [hubspot.http.get(DETAILS).status_code for _ in range(3)] == [502, 502, 200]


def test_a_fault_by_seconds_ends_with_them(sandbox: Sandbox, hubspot: HubSpotClient, clock: MovableClock) -> None:
    sandbox.faults.add(FaultKind.BAD_GATEWAY, seconds=5)
    assert hubspot.http.get(DETAILS).status_code == 502
    clock.advance(4.9)
    assert hubspot.http.get(DETAILS).status_code == 502
    clock.advance(0.1)
    assert hubspot.http.get(DETAILS).status_code == 200


def test_faults_wait_for_one_another(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add(FaultKind.BAD_GATEWAY, requests=1)
    sandbox.faults.add(FaultKind.LOCKED, requests=1)
    assert [hubspot.http.get(DETAILS).status_code for _ in range(3)] == [502, 423, 200]


def test_a_fault_may_be_confined_to_some_paths(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add(FaultKind.MISSING_SCOPES, path="/properties/")
    assert hubspot.http.get(DETAILS).status_code == 200
    assert hubspot.http.get("/crm/properties/2026-09/contacts").status_code == 403


def test_faults_are_switched_over_http_too(hubspot: HubSpotClient) -> None:
    added = hubspot.http.post("/sandbox/faults", json={"kind": "throttle", "requests": 9, "retry_after": 3})
    assert added.status_code == 201
    assert hubspot.http.get(DETAILS).status_code == 429
    [active] = hubspot.http.get("/sandbox/faults").json()["results"]
    assert (active["kind"], active["requests_left"]) == ("throttle", 8)
    assert hubspot.http.delete(f"/sandbox/faults/{active['id']}").status_code == 204
    assert hubspot.http.get(DETAILS).status_code == 200
    hubspot.http.post("/sandbox/faults", json={"kind": "down", "seconds": 60})
    assert hubspot.http.delete("/sandbox/faults").status_code == 204
    assert hubspot.http.get("/sandbox/faults").json() == {"results": []}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"kind":"earthquake"}', b'{"kind":"down","seconds":-1}'])
def test_a_fault_nobody_knows_is_refused(hubspot: HubSpotClient, body: bytes) -> None:
    assert hubspot.http.post("/sandbox/faults", content=body).status_code == 400
    assert hubspot.http.get(DETAILS).status_code == 200
