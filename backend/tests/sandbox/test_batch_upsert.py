"""What HubSpot promises and does not promise about batch upserts."""

import httpx2
import pytest

from hubspot_sandbox import Sandbox, Switches
from tests.sandbox.conftest import UPSERT, HubSpotClient, by_email, by_member


def test_upsert_creates_once_and_then_finds_the_same_contact(hubspot: HubSpotClient) -> None:
    first = hubspot.upsert(by_email("ada@example.com", "1", firstname="Ada")).json()["results"][0]
    again = hubspot.upsert(by_email("ada@example.com", "1", firstname="Ada")).json()["results"][0]
    assert (first["new"], again["new"]) == (True, False)
    assert first["id"] == again["id"]


def test_full_success_has_no_errors_key_and_echoes_every_trace_id(hubspot: HubSpotClient) -> None:
    answer = hubspot.upsert(by_email("a@example.com", "x"), by_email("b@example.com", "y"))
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "COMPLETE"
    assert "errors" not in body
    assert {row["objectWriteTraceId"]: row["properties"]["email"] for row in body["results"]} == {
        "x": "a@example.com",
        "y": "b@example.com",
    }


def test_results_are_not_in_the_order_of_the_inputs(hubspot: HubSpotClient) -> None:
    inputs = [by_email(f"d{i}@example.com", str(i)) for i in range(50)]
    order = [row["objectWriteTraceId"] for row in hubspot.upsert(*inputs).json()["results"]]
    assert order != [str(i) for i in range(50)]
    assert sorted(order, key=int) == [str(i) for i in range(50)]


def test_with_trace_ids_the_valid_inputs_are_written_and_each_invalid_one_is_named(
    sandbox: Sandbox, hubspot: HubSpotClient
) -> None:
    answer = hubspot.upsert(
        by_email("good@example.com", "good"),
        by_email("not-an-address", "bad-address"),
        by_email("other@example.com", "bad-name", surprise="1"),
    )
    assert answer.status_code == 207
    body = answer.json()
    assert body["numErrors"] == 2
    errors = {error["context"]["objectWriteTraceId"][0]: error for error in body["errors"]}
    assert errors["bad-address"]["category"] == "VALIDATION_ERROR"
    assert errors["bad-address"]["errors"][0]["code"] == "INVALID_EMAIL"
    assert errors["bad-name"]["errors"][0]["code"] == "PROPERTY_DOESNT_EXIST"
    assert [contact["id"] for contact in sandbox.contacts()] == [body["results"][0]["id"]]


def test_without_trace_ids_one_bad_input_refuses_the_whole_batch(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    answer = hubspot.upsert(by_email("good@example.com"), by_email("other@example.com", surprise="1"))
    assert answer.status_code == 400
    body = answer.json()
    assert body["category"] == "VALIDATION_ERROR"
    assert body["message"].startswith("Property values were not valid: [{")
    assert body["errors"][0]["code"] == "PROPERTY_DOESNT_EXIST"
    assert body["errors"][0]["context"] == {"propertyName": ["surprise"]}
    assert sandbox.contacts() == []


@pytest.mark.parametrize("trace_ids", [("1", None), ("1", "1")], ids=["one missing", "one repeated"])
def test_a_batch_is_all_or_nothing_unless_every_input_has_a_trace_id_of_its_own(
    sandbox: Sandbox, hubspot: HubSpotClient, trace_ids: tuple[str | None, str | None]
) -> None:
    answer = hubspot.upsert(by_email("good@example.com", trace_ids[0]), by_email("nonsense", trace_ids[1]))
    assert answer.status_code == 400
    assert sandbox.contacts() == []


def test_a_conflict_undoes_the_writes_made_before_it(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.create_key_property()
    hubspot.upsert(by_email("ada@example.com", firstname="Ada", member_id="m1"))
    before = sandbox.contacts()
    answer = hubspot.upsert(
        by_email("ada@example.com", firstname="Changed", member_id="m9"),
        by_email("new@example.com"),
        by_email("bob@example.com", member_id="m9"),
    )
    assert answer.status_code == 400
    assert sandbox.contacts() == before
    assert sandbox.contact(member_id="m9") is None
    assert sandbox.contact(member_id="m1") is not None


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_holds_one_to_a_hundred_inputs(sandbox: Sandbox, hubspot: HubSpotClient, count: int) -> None:
    answer = hubspot.upsert(*(by_email(f"d{i}@example.com", str(i)) for i in range(count)))
    assert answer.status_code == 400
    assert answer.json()["category"] == "VALIDATION_ERROR"
    assert sandbox.contacts() == []


def test_two_inputs_about_one_key_refuse_the_whole_batch_even_with_trace_ids(
    sandbox: Sandbox, hubspot: HubSpotClient
) -> None:
    answer = hubspot.upsert(by_email("ada@example.com", "1"), by_email(" ADA@example.com", "2"))
    assert answer.status_code == 400
    assert answer.json()["message"] == "Duplicate IDs found in batch input: [ada@example.com]. IDs must be unique"
    assert answer.json()["context"] == {"ids": ["ada@example.com"]}
    assert sandbox.contacts() == []


@pytest.mark.parametrize("key_property", ["phone", "hs_object_id", "no_such_property"])
def test_only_email_and_unique_properties_are_keys(hubspot: HubSpotClient, key_property: str) -> None:
    answer = hubspot.upsert({"id": "1", "idProperty": key_property, "properties": {}, "objectWriteTraceId": "1"})
    assert answer.status_code == 400
    assert answer.json()["message"] == (f"Unable to perform update/upsert by non-unique 0-1 property {key_property}")


def test_an_upsert_by_record_id_updates_and_never_creates(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    record_id = hubspot.upsert(by_email("ada@example.com")).json()["results"][0]["id"]
    answer = hubspot.upsert(
        {"id": record_id, "properties": {"city": "Kiel"}, "objectWriteTraceId": "1"},
        {"id": "7", "properties": {"city": "Kiel"}, "objectWriteTraceId": "2"},
    )
    assert answer.status_code == 207
    assert answer.json()["results"][0]["new"] is False
    assert answer.json()["errors"][0]["category"] == "OBJECT_NOT_FOUND"
    assert len(sandbox.contacts()) == 1


def test_a_new_contact_carries_the_key_it_was_upserted_by(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.create_key_property()
    hubspot.upsert(by_email("Ada@Example.com ", "1"))
    hubspot.upsert(by_member("m1", "1", phone="+49 1"))
    ada, member = sandbox.contact(email="ada@example.com"), sandbox.contact(member_id="m1")
    assert ada is not None
    assert member is not None
    assert ada["properties"]["email"] == "ada@example.com"  # type: ignore[index]
    assert member["properties"]["member_id"] == "m1"  # type: ignore[index]


@pytest.mark.parametrize(
    "body", [b"", b"{nonsense", b"[]", b'{"inputs": 7}', rb'{"inputs": [{"id": "\ud83d"}]}', b"\xff"]
)
def test_a_body_that_cannot_be_read_is_refused_without_a_category(hubspot: HubSpotClient, body: bytes) -> None:
    answer = hubspot.http.post(UPSERT, content=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Invalid input JSON on line 1")
    assert "category" not in answer.json()


def test_a_body_without_a_required_field_says_which(hubspot: HubSpotClient) -> None:
    answer = hubspot.http.post(UPSERT, json={"inputs": [{"properties": {}}]})
    assert answer.json()["message"] == "Some required fields were not set: [id]"
    assert answer.json()["category"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("version", ["v3", "2026-03", "2026-09"])
def test_every_version_reaches_the_same_contacts(sandbox: Sandbox, hubspot: HubSpotClient, version: str) -> None:
    prefix = "/crm/v3/objects/contacts" if version == "v3" else f"/crm/objects/{version}/contacts"
    answer = hubspot.http.post(f"{prefix}/batch/upsert", json={"inputs": [by_email("ada@example.com", "1")]})
    assert answer.status_code == 200
    assert sandbox.contact(email="ada@example.com") is not None


def test_the_echo_of_trace_ids_can_be_switched_off() -> None:
    with Sandbox(switches=Switches(echo_trace_ids=False)) as sandbox:
        url, headers = sandbox.url + UPSERT, {"Authorization": "Bearer t"}
        answer = httpx2.post(url, json={"inputs": [by_email("ada@example.com", "1")]}, headers=headers, trust_env=False)
    assert "objectWriteTraceId" not in answer.json()["results"][0]
