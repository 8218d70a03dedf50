"""Each answer of HubSpot has one consequence: the real worker meets it; events, gate and contacts show it.

Three drivers sign up, one with a bad luck of her own; the fault meets the requests that carry contacts, or only hers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from math import log2
from typing import Any

import pytest
from sqlalchemy import Engine

from hubspot_sandbox import Sandbox
from hubspot_sandbox.switches import Switches
from outbox.model import GateState
from tests.hubspot.conftest import HubSpot, settings_for

LONG = timedelta(days=1)
UNLUCKY = "unlucky@example.com"
DRIVERS = {"driver-1": "ada@example.com", "driver-2": UNLUCKY, "driver-3": "grace@example.com"}


class Then(Enum):
    DELIVERED = auto()
    """Everyone's event is delivered although the fault lasts, and nobody is charged."""
    WAITS = auto()
    """The gate is throttled, nobody is charged, and everything is delivered when it is over."""
    OUTAGE = auto()
    """As WAITS, as an outage that is probed."""
    HELD = auto()
    """The gate is held with the remedy, nobody is charged, and everything is delivered once it is mended."""
    FAILS_ALONE = auto()
    """Her event fails at once with the reason; the others are delivered."""
    IS_RETRIED = auto()
    """Her event is charged an attempt; the others are delivered."""
    GOES_BACK = auto()
    """Her event goes back uncharged; the others are delivered."""


@dataclass(frozen=True)
class Row:
    kind: str
    then: Then
    says: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        what = {key: value for key, value in self.options.items() if key in ("status", "code", "contact")}
        return f"{self.kind} {what}" if what else self.kind


def row(kind: str, then: Then, says: str = "", **options: Any) -> Row:
    return Row(kind, then, says, options)


def answer(status: int, then: Then, says: str = "", body: object = "", **options: Any) -> Row:
    text, content_type = (body, "text/html") if isinstance(body, str) else (json.dumps(body), "application/json")
    return Row("custom", then, says, {"status": status, "body": text, "content_type": content_type, **options})


def refused(code: str, message: str) -> dict[str, object]:
    detail = {"message": message, "code": code, "context": {"propertyName": ["nerava_stage"]}}
    return {"status": "error", "category": "VALIDATION_ERROR", "message": message, "errors": [detail]}


ONCE = {"requests": 1}
HERS = {"contact": UNLUCKY}
HELD, WAITS, OUTAGE, DELIVERED = Then.HELD, Then.WAITS, Then.OUTAGE, Then.DELIVERED
FAILS_ALONE, IS_RETRIED, GOES_BACK = Then.FAILS_ALONE, Then.IS_RETRIED, Then.GOES_BACK

ROWS = [
    # 2xx
    row("reversed_results", DELIVERED),
    row("no_trace_echo", DELIVERED),
    row("empty_results", OUTAGE, "names none"),
    row("canceled", OUTAGE, "CANCELED"),
    row("pending", OUTAGE, "PENDING"),
    row("empty_body", OUTAGE, "no JSON"),
    row("html_body", OUTAGE, "no JSON"),
    row("malformed_body", OUTAGE, "no JSON"),
    row("truncated_body", OUTAGE, "RemoteProtocolError"),
    row("huge_body", OUTAGE, "bytes"),
    answer(204, OUTAGE, "no JSON"),
    answer(200, OUTAGE, "names none", body={}),
    answer(200, OUTAGE, "no JSON", body=[1, 2]),
    answer(200, OUTAGE, "no JSON", body="[" * 100_000),
    # 207
    row("input_refused", FAILS_ALONE, "INVALID_OPTION", **HERS),
    row("input_refused", FAILS_ALONE, "relax it", code="MISSING_REQUIRED_PROPERTY", **HERS),
    row("input_refused", HELD, "run `provision`", code="PROPERTY_DOESNT_EXIST", **HERS),
    row("input_refused", HELD, "read-only", code="READ_ONLY_VALUE", **HERS),
    row("input_conflict", DELIVERED, requests=1, **HERS),
    row("input_conflict", FAILS_ALONE, "CONFLICT", **HERS),
    row("input_lost_race", DELIVERED, requests=1, **HERS),
    row("input_throttled", WAITS, "RATE_LIMITS", **HERS),
    row("input_failed", IS_RETRIED, "HubSpot refused it", **HERS),
    row("input_ignored", IS_RETRIED, "names", **HERS),
    # 3xx
    row("redirect", HELD, "HUBSPOT_BASE_URL"),
    row("redirect", HELD, "elsewhere.example", status=302, location="https://elsewhere.example/crm"),
    # 400
    row("refused", FAILS_ALONE, "INVALID_OPTION", **HERS),
    row("refused", FAILS_ALONE, "INVALID_EMAIL", code="INVALID_EMAIL", **HERS),
    row("refused", HELD, "run `provision`", code="PROPERTY_DOESNT_EXIST"),
    row("unreadable", HELD, "needs a developer"),
    row("unreadable", FAILS_ALONE, "Invalid input JSON", **HERS),
    row("wrong_object", HELD, "Unable to infer"),
    answer(400, HELD, "is not unique", body={"message": "Unable to perform upsert by non-unique 0-1 property x"}),
    answer(400, FAILS_ALONE, "GDPR", body={"category": "VALIDATION_ERROR", "message": "GDPR blacklisted"}, **HERS),
    # A value that HubSpot quotes cannot pass for an account-wide problem.
    answer(400, FAILS_ALONE, "INVALID_EMAIL", body=refused("INVALID_EMAIL", "PROPERTY_DOESNT_EXIST is bad"), **HERS),
    # 401 to 404
    row("revoked", HELD, "HUBSPOT_PRIVATE_APP_TOKEN"),
    row("expired", HELD, "HUBSPOT_PRIVATE_APP_TOKEN"),
    row("payment_required", HELD, "subscription"),
    row("missing_scopes", HELD, "crm.objects.contacts.write"),
    row("forbidden", HELD, "subscription"),
    row("blocked", OUTAGE, "403"),
    row("no_such_path", HELD, "HUBSPOT_API_VERSION"),
    answer(404, HELD, "HUBSPOT_API_VERSION", body={"category": "OBJECT_NOT_FOUND", "message": "resource not found"}),
    answer(404, FAILS_ALONE, "not found", body={"category": "OBJECT_NOT_FOUND", "message": "not found"}, **HERS),
    # Other 4xx
    answer(405, HELD, "HUBSPOT_API_VERSION"),
    answer(411, HELD, "411"),
    answer(415, HELD, "415"),
    row("request_timeout", OUTAGE, "408"),
    row("conflict", DELIVERED, **ONCE),
    row("conflict", FAILS_ALONE, "HubSpot refused it", **HERS),
    row("too_large", DELIVERED),
    row("uri_too_long", DELIVERED),
    answer(413, FAILS_ALONE, "413", **HERS),
    row("record_full", FAILS_ALONE, "250", **HERS),
    row("locked", DELIVERED, **ONCE),
    row("locked", GOES_BACK, "423", **HERS),
    row("throttle", WAITS, "TEN_SECONDLY_ROLLING"),
    row("throttle_daily", WAITS, "DAILY"),
    row("throttle_secondly", WAITS, "RATE_LIMITS"),
    row("throttle_unknown", WAITS, "429"),
    row("migrating", WAITS, "477"),
    row("wrong_hublet", HELD, "HUBSPOT_BASE_URL"),
    # 5xx and no answer
    row("server_error", OUTAGE, "500"),
    *(row("cdn_page", OUTAGE, str(it), status=it) for it in (502, 503, 504, 520, 521, 522, 523, 525, 526)),
    row("gateway_timeout_after_applying", OUTAGE, "524"),
    row("down", OUTAGE, "ReadError"),
    row("reset_after_applying", OUTAGE, "ReadError"),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_answer_has_its_consequence(hubspot: HubSpot, case: Row) -> None:
    events = {driver: hubspot.sign_up(driver, email=email) for driver, email in DRIVERS.items()}
    hers = events["driver-2"]
    hubspot.sandbox.faults.add(case.kind, path="/batch/upsert", **case.options)
    hubspot.deliver()

    attempts = {driver: hubspot.row(it).attempt_count for driver, it in events.items()}
    delivered = {driver for driver, it in events.items() if hubspot.is_delivered(it)}
    gate, error = hubspot.gate(), hubspot.row(hers).last_error or ""
    others = {"driver-1", "driver-3"}
    match case.then:
        case Then.DELIVERED:
            assert delivered == set(DRIVERS)
        case Then.HELD | Then.WAITS | Then.OUTAGE:
            assert gate.state is (GateState.HELD if case.then is HELD else GateState.THROTTLED)
            assert (gate.reason or "").startswith("outage") == (case.then is OUTAGE)
            assert case.says in (gate.reason or "")
        case Then.FAILS_ALONE:
            assert hubspot.row(hers).failed_at is not None
            assert delivered == others
        case Then.IS_RETRIED | Then.GOES_BACK:
            assert hubspot.row(hers).failed_at is None
            assert delivered == others
    charge = {Then.FAILS_ALONE: 3, Then.IS_RETRIED: 1}.get(case.then, 0)
    assert attempts == {"driver-1": 0, "driver-2": charge, "driver-3": 0}
    if charge or case.then is GOES_BACK:
        assert case.says in error
    assert "@" not in f"{error} {gate.reason}"

    hubspot.sandbox.faults.clear()
    hubspot.queue.pass_time(LONG)
    hubspot.deliver()
    assert hubspot.gate().state is GateState.OPEN
    arrived = set(DRIVERS) - ({"driver-2"} if case.then is FAILS_ALONE else set())
    assert {driver for driver, it in events.items() if hubspot.is_delivered(it)} == arrived
    assert {it["properties"]["email"] for it in hubspot.sandbox.contacts()} >= {DRIVERS[it] for it in arrived}
    for driver in arrived:
        assert (hubspot.contact(driver) or {})["email"] == DRIVERS[driver]
    assert all(it["path"] != "/crm/moved" for it in hubspot.sandbox.requests())


@pytest.mark.parametrize(
    "switches",
    [
        Switches(trace_ids_split_upserts=False),
        Switches(trace_ids_split_upserts=False, email_conflict="coordinates"),
        Switches(echo_trace_ids=False),
    ],
    ids=["all or nothing", "all or nothing, coordinates", "no echo"],
)
def test_one_bad_input_fails_alone_whatever_the_batch_contract(engine: Engine, switches: Switches) -> None:
    with Sandbox(seed=1, rate_max=10_000, switches=switches) as sandbox:
        hubspot = HubSpot(engine, sandbox, settings_for(sandbox))
        hubspot.provision()
        good = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(20)]
        bad = hubspot.sign_up("driver-bad", email="not..an@address..example")
        hubspot.deliver()
        assert all(hubspot.is_delivered(it) for it in good)
        assert hubspot.row(bad).failed_at is not None
        assert all(hubspot.row(it).attempt_count == 0 for it in good)


@pytest.mark.parametrize("kind", ["conflict", "locked"])
def test_request_whose_trouble_may_have_passed_is_sent_once_more_before_it_is_divided(
    hubspot: HubSpot, kind: str
) -> None:
    events = [hubspot.sign_up(driver, email=email) for driver, email in DRIVERS.items()]
    hubspot.sandbox.faults.add(kind, requests=1, path="/batch/upsert")
    hubspot.deliver()
    assert all(hubspot.is_delivered(it) for it in events)
    assert len(hubspot.upserts()) == 2


@pytest.mark.parametrize("count", [2, 7, 33, 50, 64, 100])
@pytest.mark.parametrize("kind", ["refused", "conflict"])
def test_guilty_input_is_found_with_few_requests_more(hubspot: HubSpot, count: int, kind: str) -> None:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_batch_size=100)
    worst = 0
    for guilty in {0, count // 2, count - 1}:
        hubspot.sandbox.reset()
        hubspot.provision()
        for n in range(count):
            hubspot.sign_up(f"driver-{guilty}-{n}", email=f"driver-{guilty}-{n}@example.com")
        hubspot.sandbox.faults.add(kind, path="/batch/upsert", contact=f"driver-{guilty}-{guilty}@example.com")
        hubspot.deliver()
        worst = max(worst, len(hubspot.upserts()) - 1)
    assert worst <= 2 * log2(count) + 2
