"""Every answer that a client must expect can be had: what each kind of fault answers, and what it leaves behind."""

import httpx2
import pytest

from hubspot_sandbox import FaultKind, Sandbox
from tests.sandbox.conftest import CONTACTS, HubSpotClient, by_email, by_member

DETAILS = "/account-info/2026-09/details"
ADA, BOB = "ada@example.com", "bob@example.com"


def upsert_both(hubspot: HubSpotClient) -> httpx2.Response:
    return hubspot.upsert(by_email(ADA, "a"), by_email(BOB, "b"))


def stored(sandbox: Sandbox) -> set[str]:
    return {contact["properties"]["email"] for contact in sandbox.contacts()}  # type: ignore[index]


def traces(answer: httpx2.Response) -> list[str]:
    return [row["objectWriteTraceId"] for row in answer.json()["results"]]


@pytest.mark.parametrize(
    ("kind", "status", "field", "value"),
    [
        ("throttle_unknown", 429, "policyName", "CONCURRENT"),
        ("payment_required", 402, "category", "PAYMENT_REQUIRED"),
        ("forbidden", 403, "category", "FORBIDDEN"),
        ("no_such_path", 404, "message", "No resource at this path"),
        ("conflict", 409, "category", "CONFLICT"),
        ("record_full", 414, "message", "Cannot have more than 250 identities on a profile"),
        ("refused", 400, "category", "VALIDATION_ERROR"),
        ("unreadable", 400, "category", None),
        ("wrong_object", 400, "message", "Unable to infer object type from: contact"),
        ("pending", 200, "status", "PENDING"),
    ],
)
def test_hubspots_refusals_of_a_whole_batch_apply_nothing(
    sandbox: Sandbox, hubspot: HubSpotClient, kind: str, status: int, field: str, value: object
) -> None:
    sandbox.faults.add(kind)
    answer = upsert_both(hubspot)
    assert answer.status_code == status
    assert answer.json().get(field) == value
    assert "errors" not in answer.json() or "objectWriteTraceId" not in answer.text
    assert sandbox.contacts() == []


@pytest.mark.parametrize("status", [520, 521, 522, 523, 525, 526])
def test_the_cdn_has_pages_of_its_own(sandbox: Sandbox, hubspot: HubSpotClient, status: int) -> None:
    sandbox.faults.add("cdn_page", status=status, retry_after=9)
    answer = upsert_both(hubspot)
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "9")
    assert answer.headers["content-type"].startswith("text/html")
    assert sandbox.contacts() == []


def test_a_redirect_leads_away_and_applies_nothing(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("redirect", location=f"{sandbox.url}/elsewhere", status=302)
    answer = upsert_both(hubspot)
    assert (answer.status_code, answer.headers["location"]) == (302, f"{sandbox.url}/elsewhere")
    assert sandbox.contacts() == []


@pytest.mark.parametrize(("kind", "status"), [("request_timeout", 408), ("custom", 500)])
def test_a_refusal_may_be_empty(sandbox: Sandbox, hubspot: HubSpotClient, kind: str, status: int) -> None:
    sandbox.faults.add(kind)
    answer = upsert_both(hubspot)
    assert (answer.status_code, answer.content) == (status, b"")
    assert "content-type" not in answer.headers


def test_any_other_answer_can_be_made_to_measure(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("custom", status=415, body='{"a":1}', content_type="application/json", headers={"X-Odd": "1"})
    answer = upsert_both(hubspot)
    assert (answer.status_code, answer.json(), answer.headers["x-odd"]) == (415, {"a": 1}, "1")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", ["too_large", "uri_too_long"])
def test_what_is_too_large_passes_one_by_one(sandbox: Sandbox, hubspot: HubSpotClient, kind: str) -> None:
    sandbox.faults.add(kind)
    assert upsert_both(hubspot).status_code == {"too_large": 413, "uri_too_long": 414}[kind]
    assert hubspot.upsert(by_email(ADA)).status_code == 200


@pytest.mark.parametrize("named_in", ["errors", "context"])
def test_missing_scopes_are_named_in_either_of_two_places(
    sandbox: Sandbox, hubspot: HubSpotClient, named_in: str
) -> None:
    sandbox.switch(missing_scopes_in=named_in)
    sandbox.faults.add("missing_scopes", scopes=("crm.schemas.contacts.write",))
    body = upsert_both(hubspot).json()
    holder = body["errors"][0] if named_in == "errors" else body
    assert body["category"] == "MISSING_SCOPES"
    assert holder["context"] == {"requiredGranularScopes": ["crm.schemas.contacts.write"]}


@pytest.mark.parametrize(
    ("kind", "category", "code"),
    [
        ("input_refused", "VALIDATION_ERROR", "INVALID_LONG"),
        ("input_conflict", "CONFLICT", None),
        ("input_throttled", "RATE_LIMITS", None),
        ("input_failed", None, None),
    ],
)
def test_one_input_can_be_refused_among_others(
    sandbox: Sandbox, hubspot: HubSpotClient, kind: str, category: str | None, code: str | None
) -> None:
    sandbox.faults.add(kind, contact=ADA, code="INVALID_LONG")
    answer = upsert_both(hubspot)
    assert answer.status_code == 207
    assert traces(answer) == ["b"]
    [error] = answer.json()["errors"]
    assert error["context"]["objectWriteTraceId"] == ["a"]
    assert error.get("category") == category
    assert [it["code"] for it in error.get("errors", [])] == ([code] if code else [])
    assert stored(sandbox) == {BOB}
    untraced = hubspot.upsert(by_email(ADA), by_email("eve@example.com"))
    assert untraced.status_code >= 400
    assert stored(sandbox) == {BOB}


def test_an_ignored_input_is_neither_written_nor_named(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("input_ignored", contact=ADA)
    answer = upsert_both(hubspot)
    assert (answer.status_code, traces(answer)) == (200, ["b"])
    assert stored(sandbox) == {BOB}


def test_partial_results_leave_out_an_input_that_was_written(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("partial_results")
    assert len(traces(upsert_both(hubspot))) == 1
    assert stored(sandbox) == {ADA, BOB}


@pytest.mark.parametrize("trace_id", ["1", None])
def test_a_lost_race_is_a_400_about_a_record_that_will_never_be(
    sandbox: Sandbox, hubspot: HubSpotClient, trace_id: str | None
) -> None:
    hubspot.create_key_property()
    sandbox.faults.add("input_lost_race", requests=1)
    answer = hubspot.upsert(by_member("m1", trace_id, city="Kiel"))
    error = answer.json()["errors"][0] if trace_id else answer.json()
    winner = sandbox.contact(member_id="m1")
    assert winner is not None
    assert error["category"] == "VALIDATION_ERROR"
    assert error["message"].startswith("Cannot set PropertyValueCoordinates{portalId=12345678, ")
    assert error["message"].endswith(f"{winner['id']} already has that value.")
    assert "city" not in winner["properties"]  # type: ignore[operator]
    assert hubspot.upsert(by_member("m1", trace_id, city="Kiel")).json()["results"][0]["id"] == winner["id"]


def test_no_race_is_lost_about_a_contact_that_exists(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.upsert(by_email(ADA))
    sandbox.faults.add("input_lost_race")
    assert hubspot.upsert(by_email(ADA)).status_code == 200


def test_trace_ids_may_not_be_repeated(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("no_trace_echo")
    answer = upsert_both(hubspot)
    assert all("objectWriteTraceId" not in row for row in answer.json()["results"])
    assert stored(sandbox) == {ADA, BOB}


def test_errors_may_name_no_input(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("unnamed_errors")
    answer = hubspot.upsert(by_email("nonsense", "a"), by_email(BOB, "b"))
    assert answer.status_code == 207
    assert "objectWriteTraceId" not in str(answer.json()["errors"])


def test_results_may_come_newest_contact_first(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("reversed_results")
    answer = hubspot.upsert(*(by_email(f"d{i}@example.com", str(i)) for i in range(9)))
    assert traces(answer) == [str(i) for i in reversed(range(9))]


def test_the_token_may_turn_out_to_be_another_portals(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("wrong_portal", requests=1)
    assert upsert_both(hubspot).status_code == 200
    assert [hubspot.http.get(DETAILS).json()["portalId"] for _ in range(2)] == [12345679, 12345678]


@pytest.mark.parametrize("kind", ["empty_body", "html_body", "malformed_body"])
def test_a_200_may_be_no_json_though_the_work_is_done(sandbox: Sandbox, hubspot: HubSpotClient, kind: str) -> None:
    sandbox.faults.add(kind)
    answer = upsert_both(hubspot)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|Extra data|Invalid"):
        answer.json()
    assert stored(sandbox) == {ADA, BOB}


def test_an_answer_may_be_cut_off(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("truncated_body", requests=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        upsert_both(hubspot)
    assert stored(sandbox) == {ADA, BOB}
    assert upsert_both(hubspot).status_code == 200


def test_an_answer_may_never_seem_to_end(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("huge_body", requests=1)
    with hubspot.http.stream("GET", DETAILS) as answer:
        assert int(answer.headers["content-length"]) == 64 * 1024 * 1024
        assert next(answer.iter_bytes(100)).startswith(b"{")
    assert hubspot.http.get(DETAILS).status_code == 200


def test_an_answer_may_drip(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("dripping_body", delay=0.02, requests=1)
    with hubspot.http.stream("GET", DETAILS) as answer:
        pieces = answer.iter_raw()
        assert [next(pieces) for _ in range(3)] == [b"{", b'"', b"p"]


def test_a_write_may_be_applied_after_the_client_has_gone(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("slow_to_apply", delay=0.2, requests=1)
    with pytest.raises(httpx2.ReadTimeout):
        hubspot.http.post(CONTACTS, json={"properties": {"email": ADA}}, timeout=0.05)
    assert sandbox.contacts() == []
    sandbox.wait_until(lambda account: len(account.contacts) == 1)


@pytest.mark.parametrize("kind", ["bad_gateway", "locked", "reset", "empty_results"])
def test_any_fault_can_follow_the_work(sandbox: Sandbox, hubspot: HubSpotClient, kind: str) -> None:
    sandbox.faults.add(kind, after_applying=True)
    try:
        answer = upsert_both(hubspot)
    except httpx2.ReadError:
        assert kind == "reset"
    else:
        assert answer.status_code != 200 or answer.json()["results"] == []
    assert stored(sandbox) == {ADA, BOB}


@pytest.mark.parametrize("name", [ADA, "ADA@example.com", "ada@work.example.com", "m1", "record id"])
def test_a_fault_may_follow_one_contact_by_any_of_its_names(
    sandbox: Sandbox, hubspot: HubSpotClient, name: str
) -> None:
    hubspot.create_key_property()
    ada = by_member("m1", "a", email=ADA, hs_additional_emails="ada@work.example.com")
    record_id = hubspot.upsert(ada).json()["results"][0]["id"]
    sandbox.faults.add("server_error", contact=record_id if name == "record id" else name)
    assert hubspot.upsert(by_email(BOB, "1")).status_code == 200
    assert hubspot.upsert(by_email(BOB, "1"), by_email(ADA, "2")).status_code == 500
    assert hubspot.upsert(by_member("m1", "1")).status_code == 500
    assert hubspot.upsert(by_member("m2", "1", email=ADA)).status_code == 500
    assert hubspot.http.get(f"{CONTACTS}/{record_id}").status_code == 500
    by_address = hubspot.http.patch(f"{CONTACTS}/{ADA}?idProperty=email", json={"properties": {}})
    assert by_address.status_code == 500
    assert hubspot.http.get(DETAILS).status_code == 200


def test_a_fault_may_wait_for_a_contact_that_does_not_exist_yet(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("server_error", contact=ADA)
    assert hubspot.upsert(by_email(ADA, "1")).status_code == 500
    assert hubspot.upsert(by_email(BOB, "1")).status_code == 200


def test_a_fault_may_meet_a_share_of_the_requests_the_same_for_the_same_seed(
    sandbox: Sandbox, hubspot: HubSpotClient
) -> None:
    def statuses() -> list[int]:
        sandbox.reset()
        sandbox.faults.add("bad_gateway", share=0.3)
        return [hubspot.http.get(DETAILS).status_code for _ in range(60)]

    first = statuses()
    assert 5 < first.count(502) < 40
    assert statuses() == first


def test_a_fault_in_inputs_leaves_reads_alone_and_uncounted(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.faults.add("input_failed", requests=1)
    hubspot.http.get(DETAILS)
    hubspot.http.get(f"{CONTACTS}/1")
    assert sandbox.faults.active()[0]["requests_left"] == 1
    assert hubspot.http.post(CONTACTS, json={"properties": {"email": ADA}}).status_code == 500
    assert sandbox.faults.active() == []


@pytest.mark.parametrize("kind", list(FaultKind))
def test_every_fault_says_what_it_does_and_can_be_met(
    sandbox: Sandbox, hubspot: HubSpotClient, kind: FaultKind
) -> None:
    assert kind.meaning
    sandbox.faults.add(kind, delay=0.001, requests=1)
    try:
        hubspot.http.get(DETAILS)
        upsert_both(hubspot)
    except httpx2.TransportError:
        assert kind in {"down", "reset", "reset_after_applying", "truncated_body"}
    assert sandbox.faults.active() == []
    assert kind in [request["fault"] for request in sandbox.requests()]
