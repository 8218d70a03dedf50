"""Each answer of HubSpot has one consequence: the real worker meets it; events, gate and contacts show it.

Three drivers sign up, one with a bad luck of her own; the fault meets the requests that carry contacts, or only hers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from math import log2
from typing import Any

import pytest
from sqlalchemy import Engine

from hubspot_sandbox import Sandbox
from hubspot_sandbox.switches import Switches
from hubspot_sync.answer import Answer
from hubspot_sync.classification import Contested, Held, RefusedWhole, classify
from sqlalchemy_outbox.model import GateState
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


def with_her_error(**error: object) -> dict[str, object]:
    """The others are written, as their address says; hers is named by its key."""
    written = [
        {"id": str(n), "properties": {"email": email}} for n, email in enumerate(DRIVERS.values()) if email != UNLUCKY
    ]
    return {"status": "COMPLETE", "results": written, "errors": [{**error, "context": {"id": [UNLUCKY]}}]}


ONCE = {"requests": 1}
HERS = {"contact": UNLUCKY}
APPLIED = {"after_applying": True}
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
    row("truncated_body", OUTAGE, "the answer was cut off, or is no HTTP"),
    row("huge_body", DELIVERED, requests=1),
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
    answer(207, FAILS_ALONE, "no luck", body=with_her_error(category="VALIDATION_ERROR", message="no luck"), **APPLIED),
    answer(207, FAILS_ALONE, "UNHEARD_OF", body=with_her_error(code="UNHEARD_OF", message="no luck"), **APPLIED),
    answer(207, DELIVERED, body=with_her_error(code="CONFLICTING_UNIQUE_VALUE"), requests=1, **APPLIED),
    answer(207, DELIVERED, body=with_her_error(category="OBJECT_ALREADY_EXISTS"), requests=1, **APPLIED),
    answer(207, DELIVERED, body=with_her_error(category="OBJECT_NOT_FOUND"), requests=1, **APPLIED),
    # 3xx
    row("redirect", HELD, "HUBSPOT_BASE_URL"),
    row("redirect", HELD, "elsewhere.example", status=302, location="https://elsewhere.example/crm"),
    # 400
    row("refused", FAILS_ALONE, "INVALID_OPTION", **HERS),
    row("refused", FAILS_ALONE, "INVALID_EMAIL", code="INVALID_EMAIL", **HERS),
    row("refused", HELD, "run `provision`", code="PROPERTY_DOESNT_EXIST"),
    row("unreadable", HELD, "needs a developer"),
    row("unreadable", FAILS_ALONE, "Invalid input JSON", **HERS),
    row("wrong_object", HELD, "run `provision --plan`"),
    # The second request is hers alone.
    answer(400, DELIVERED, body=refused("CONFLICTING_UNIQUE_VALUE", "taken"), requests=2, **HERS),
    answer(400, HELD, "is not unique", body={"message": "Unable to perform upsert by non-unique 0-1 property x"}),
    # A value that HubSpot quotes cannot pass for an account-wide problem.
    answer(400, FAILS_ALONE, "INVALID_EMAIL", body=refused("INVALID_EMAIL", "PROPERTY_DOESNT_EXIST is bad"), **HERS),
    # 401 to 404
    row("revoked", HELD, "HUBSPOT_PRIVATE_APP_TOKEN"),
    row("expired", HELD, "HUBSPOT_PRIVATE_APP_TOKEN"),
    row("payment_required", HELD, "does not cover this call"),
    row("missing_scopes", HELD, "crm.objects.contacts.write"),
    row("forbidden", HELD, "the token's owner"),
    row("blocked", OUTAGE, "403"),
    row("no_such_path", HELD, "HUBSPOT_API_VERSION"),
    answer(404, HELD, "HUBSPOT_API_VERSION", body={"category": "OBJECT_NOT_FOUND", "message": "resource not found"}),
    answer(404, FAILS_ALONE, "not found", body={"category": "OBJECT_NOT_FOUND", "message": "not found"}, **HERS),
    # Other 4xx
    answer(405, HELD, "HUBSPOT_API_VERSION"),
    answer(411, HELD, "411"),
    answer(415, HELD, "415"),
    row("request_timeout", OUTAGE, "408"),
    answer(425, OUTAGE, "425"),
    row("conflict", DELIVERED, **ONCE),
    row("conflict", FAILS_ALONE, "HubSpot refused it", **HERS),
    answer(409, FAILS_ALONE, "busy", body={"message": "busy"}, **HERS),
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
    row("wrong_hublet", HELD, "the host that HubSpot names"),
    # 5xx and no answer
    row("server_error", OUTAGE, "500"),
    *(row("cdn_page", OUTAGE, str(it), status=it) for it in (502, 503, 504, 520, 521, 522, 523, 525, 526)),
    row("gateway_timeout_after_applying", OUTAGE, "524"),
    row("down", OUTAGE, "the connection was cut off"),
    row("reset_after_applying", OUTAGE, "the connection was cut off"),
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


@pytest.mark.parametrize("unlucky", [["driver-2"], ["driver-1", "driver-2"], [*DRIVERS]], ids=len)
def test_inputs_whose_errors_name_nobody_fail_alone(hubspot: HubSpot, unlucky: list[str]) -> None:
    events = {driver: hubspot.sign_up(driver, email=email) for driver, email in DRIVERS.items()}
    for driver in unlucky:
        hubspot.sandbox.faults.add("input_refused", contact=DRIVERS[driver])
    hubspot.sandbox.faults.add("unnamed_errors")
    hubspot.deliver()
    for driver, event_id in events.items():
        assert hubspot.is_delivered(event_id) == (driver not in unlucky)
        assert hubspot.row(event_id).attempt_count == (3 if driver in unlucky else 0)
        assert ("INVALID_OPTION" in (hubspot.row(event_id).last_error or "")) == (driver in unlucky)


def test_error_that_concerns_everyone_shuts_the_gate_though_it_names_nobody(hubspot: HubSpot) -> None:
    events = [hubspot.sign_up(driver, email=email) for driver, email in DRIVERS.items()]
    hubspot.sandbox.faults.add("input_throttled", **HERS)
    hubspot.sandbox.faults.add("unnamed_errors")
    hubspot.deliver()
    assert hubspot.gate().state is GateState.THROTTLED
    assert [hubspot.row(it).attempt_count for it in events] == [0, 0, 0]


def test_error_that_concerns_everyone_shuts_the_gate_though_another_input_has_one_of_its_own(hubspot: HubSpot) -> None:
    events = [hubspot.sign_up(driver, email=email) for driver, email in DRIVERS.items()]
    hubspot.sandbox.faults.add("input_throttled", requests=1, contact=DRIVERS["driver-2"])
    hubspot.sandbox.faults.add("input_refused", contact=DRIVERS["driver-3"])
    hubspot.deliver()
    assert hubspot.gate().state is GateState.THROTTLED
    assert [hubspot.row(it).attempt_count for it in events] == [0, 0, 3]


def test_error_may_name_its_input_by_the_key(hubspot: HubSpot) -> None:
    events = {driver: hubspot.sign_up(driver, email=email) for driver, email in DRIVERS.items()}
    errors = [
        {"category": "VALIDATION_ERROR", "message": f"not {driver}", "context": {"id": [DRIVERS[driver]]}}
        for driver in ("driver-3", "driver-2")
    ]
    result = {"id": "1", "properties": {"email": DRIVERS["driver-1"]}}
    body = {"status": "COMPLETE", "results": [result], "errors": errors}
    hubspot.sandbox.faults.add("custom", path="/batch/upsert", status=207, body=json.dumps(body))
    hubspot.deliver()
    assert len(hubspot.upserts()) == 1
    assert hubspot.is_delivered(events["driver-1"])
    for driver in ("driver-2", "driver-3"):
        assert f"not {driver}" in hubspot.row(events[driver]).last_error


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (refused("INVALID_EMAIL", "no address"), "INVALID_EMAIL"),
        ({"category": "VALIDATION_ERROR", "message": "email has been GDPR blacklisted"}, "never accepts this address"),
        ({"message": "email has been GDPR blacklisted"}, "never accepts this address"),
        ({"message": "Cannot set PropertyValueCoordinates{propertyName=email} on 7."}, "PropertyValueCoordinates"),
    ],
    ids=["its value", "its person", "its person, without a category", "its contact"],
)
def test_input_that_is_refused_for_what_it_says_fails_though_nothing_else_got_through(
    hubspot: HubSpot, body: object, says: str
) -> None:
    """A hold is for what may befall every request."""
    event_id = hubspot.sign_up("driver-2", email=UNLUCKY)
    hubspot.sandbox.faults.add("custom", path="/batch/upsert", status=400, body=json.dumps(body))
    hubspot.deliver()
    assert hubspot.row(event_id).failed_at is not None
    assert says in hubspot.row(event_id).last_error
    assert hubspot.gate().state is GateState.OPEN


@pytest.mark.parametrize(
    ("result", "is_hers"),
    [
        ({"properties": {"email": f" {UNLUCKY} "}}, True),
        ({"properties": {"nerava_user_id": "driver-2"}}, True),
        ({"id": "driver-2"}, True),
        ({"properties": {"email": "ada@example.com"}}, False),
        ({"properties": {"email": UNLUCKY}, "objectWriteTraceId": "another"}, False),
    ],
    ids=["spaces", "our id", "the key as its id", "another's address", "another's trace id"],
)
def test_result_is_an_inputs_if_it_has_its_trace_id_or_without_one_its_key(
    hubspot: HubSpot, result: dict[str, object], is_hers: bool
) -> None:
    event_id = hubspot.sign_up("driver-2", email=UNLUCKY)
    body = {"status": "COMPLETE", "results": [{"id": "1", **result}]}
    hubspot.sandbox.faults.add("custom", path="/batch/upsert", requests=1, status=200, body=json.dumps(body))
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert len(hubspot.upserts()) == (1 if is_hers else 2)


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Contact already exists. Existing ID: 7"},
        {"message": "Contact already exists.", "context": {"existingId": ["7"]}},
        {
            "message": "no",
            "errors": [
                {"message": "Cannot set PropertyValueCoordinates{propertyName=email} on 1. 7 already has that value."}
            ],
        },
    ],
    ids=["in words", "in the context", "in an error of the error's"],
)
def test_contact_in_the_way_is_known_wherever_hubspot_names_it(error: dict[str, object]) -> None:
    answer = Answer(409, {}, {"category": "CONFLICT", **error})
    verdict = classify(answer, [], now=datetime.now(UTC), time_zone=None)
    assert isinstance(verdict, RefusedWhole)
    assert isinstance(verdict.finding, Contested)
    assert (verdict.finding.property, verdict.finding.holder) == ("email", "7")


@pytest.mark.parametrize("named_in", ["errors", "context"])
def test_scope_that_hubspot_misses_is_named(named_in: str) -> None:
    named = {"context": {"requiredGranularScopes": ["crm.lists.read"]}}
    body = {"category": "MISSING_SCOPES", **(named if named_in == "context" else {"errors": [named]})}
    verdict = classify(Answer(403, {}, body), [], now=datetime.now(UTC), time_zone=None)
    assert verdict == Held("HubSpot answered 403: MISSING_SCOPES. Grant the token crm.lists.read.")


def test_only_the_properties_that_are_missing_are_named_as_missing() -> None:
    problems = [("PROPERTY_DOESNT_EXIST", "nerava_stage"), ("INVALID_EMAIL", "email")]
    errors = [{"code": code, "context": {"propertyName": [name]}} for code, name in problems]
    answer = Answer(400, {}, {"category": "VALIDATION_ERROR", "errors": errors})
    verdict = classify(answer, [], now=datetime.now(UTC), time_zone=None)
    assert verdict == Held("the account lacks the properties nerava_stage: run `provision` to create them.")


def test_reason_ends_with_what_hubspots_support_asks_for(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-2", email=UNLUCKY)
    hubspot.sandbox.faults.add("input_refused")
    hubspot.deliver()
    [upsert] = hubspot.upserts()
    assert hubspot.row(event_id).last_error.endswith(f"(correlation id {upsert['correlation_id']})")


def test_first_of_several_fails_alone_for_what_might_have_befallen_all(hubspot: HubSpot) -> None:
    events = [hubspot.sign_up(driver, email=email) for driver, email in DRIVERS.items()]
    hubspot.sandbox.faults.add("unreadable", path="/batch/upsert", contact=DRIVERS["driver-1"])
    hubspot.deliver()
    assert [hubspot.is_delivered(it) for it in events] == [False, True, True]
    assert hubspot.row(events[0]).failed_at is not None


@pytest.mark.parametrize(("count", "requests"), [(1, 1), (2, 3), (20, 13)])
def test_requests_of_which_none_gets_through_are_few(hubspot: HubSpot, count: int, requests: int) -> None:
    """Divided until the one input there is, both or three have been refused alone; then five others are tried."""
    for n in range(count):
        hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com")
    hubspot.sandbox.faults.add("unreadable", path="/batch/upsert")
    hubspot.deliver()
    assert hubspot.gate().state is GateState.HELD
    assert len(hubspot.upserts()) == requests


def test_input_is_known_to_be_the_guilty_one_whatever_came_between_it_and_the_accepted_ones(hubspot: HubSpot) -> None:
    """Two requests: two drivers share an address."""
    accepted = hubspot.sign_up("driver-1", email="shared@example.com")
    refused = hubspot.sign_up("driver-2", phone="+4930123456")
    guilty = hubspot.sign_up("driver-3", email="shared@example.com")
    hubspot.sandbox.faults.add("input_refused", contact="driver-2")
    hubspot.sandbox.faults.add("unreadable", path="/batch/upsert", contact="driver-3")
    hubspot.deliver()
    assert hubspot.is_delivered(accepted)
    assert hubspot.row(refused).failed_at is not None
    assert hubspot.row(guilty).failed_at is not None
    assert hubspot.gate().state is GateState.OPEN


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
