"""What becomes of contacts: created and updated in batches, archived, merged, erased, and held to 2026-09's rules."""

import pytest

from hubspot_sandbox import Sandbox
from tests.sandbox.conftest import CONTACTS, PROPERTIES, READ, HubSpotClient, by_email, by_member

ADA, BOB = "ada@example.com", "bob@example.com"


def create(hubspot: HubSpotClient, email: str, **properties: str) -> str:
    answer = hubspot.http.post(CONTACTS, json={"properties": {"email": email, **properties}})
    assert answer.status_code == 201
    return answer.json()["id"]


def batch(hubspot: HubSpotClient, verb: str, *inputs: dict[str, object]):
    return hubspot.http.post(f"{CONTACTS}/batch/{verb}", json={"inputs": inputs})


def traced(trace_id: str | None, **fields: object) -> dict[str, object]:
    return fields if trace_id is None else {**fields, "objectWriteTraceId": trace_id}


def test_a_batch_create_without_trace_ids_is_refused_whole_and_names_the_first_clash(
    sandbox: Sandbox, hubspot: HubSpotClient
) -> None:
    existing = create(hubspot, ADA)
    answer = batch(hubspot, "create", {"properties": {"email": BOB}}, {"properties": {"email": ADA}})
    assert answer.status_code == 409
    assert answer.json()["message"] == f"Contact already exists. Existing ID: {existing}"
    assert len(sandbox.contacts()) == 1


def test_a_batch_create_with_trace_ids_writes_what_it_can(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    create(hubspot, ADA)
    answer = batch(hubspot, "create", traced("1", properties={"email": BOB}), traced("2", properties={"email": ADA}))
    assert answer.status_code == 207
    assert [row["objectWriteTraceId"] for row in answer.json()["results"]] == ["1"]
    assert answer.json()["errors"][0]["category"] == "CONFLICT"
    assert batch(hubspot, "create", {"properties": {"email": "c@example.com"}}).status_code == 201


@pytest.mark.parametrize("trace_id", ["1", None])
def test_a_batch_update_names_unknown_ids_with_or_without_trace_ids(
    sandbox: Sandbox, hubspot: HubSpotClient, trace_id: str | None
) -> None:
    ada = create(hubspot, ADA)
    unknown = traced(trace_id and "2", id="7", properties={"city": "Kiel"})
    answer = batch(hubspot, "update", traced(trace_id, id=ada, properties={"city": "Kiel"}), unknown)
    assert answer.status_code == 207
    assert answer.json()["errors"][0]["context"] == {"ids": ["7"]}
    assert sandbox.contact(email=ADA)["properties"]["city"] == "Kiel"


def test_a_batch_update_by_address_is_refused_and_by_a_unique_property_is_not(hubspot: HubSpotClient) -> None:
    hubspot.create_key_property()
    create(hubspot, ADA, member_id="m1")
    by_address = batch(hubspot, "update", {"id": ADA, "idProperty": "email", "properties": {}})
    assert by_address.status_code == 400
    assert by_address.json()["message"] == "Unable to perform update/upsert by non-unique 0-1 property email"
    by_key = batch(hubspot, "update", {"id": "m1", "idProperty": "member_id", "properties": {"city": "Kiel"}})
    assert by_key.status_code == 200


def test_an_archived_contact_is_gone_save_for_those_who_ask(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    ada, bob = create(hubspot, ADA), create(hubspot, BOB)
    assert hubspot.http.delete(f"{CONTACTS}/{ada}").status_code == 204
    assert batch(hubspot, "archive", {"id": bob}, {"id": "7"}).status_code == 204
    assert sandbox.contacts() == []
    assert hubspot.http.get(f"{CONTACTS}/{ada}").status_code == 404
    assert hubspot.http.get(f"{CONTACTS}/{ada}?archived=true").json()["archived"] is True
    listed = hubspot.http.get(f"{CONTACTS}?archived=true").json()["results"]
    assert [contact["id"] for contact in listed] == [ada, bob]
    assert hubspot.http.delete(f"{CONTACTS}/{ada}").status_code == 204


@pytest.mark.parametrize("written", ["new", "restore"])
def test_whether_an_archived_address_comes_back_is_a_switch(
    sandbox: Sandbox, hubspot: HubSpotClient, written: str
) -> None:
    sandbox.switch(write_to_archived_email=written)
    ada = create(hubspot, ADA, city="Kiel")
    hubspot.http.delete(f"{CONTACTS}/{ada}")
    again = hubspot.upsert(by_email(ADA, "1", phone="1")).json()["results"][0]["id"]
    assert (again == ada) == (written == "restore")
    assert (sandbox.contact(email=ADA)["properties"].get("city") == "Kiel") == (written == "restore")


def test_a_restored_contact_is_archived_again_when_its_batch_fails(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    sandbox.switch(write_to_archived_email="restore")
    hubspot.create_key_property()
    create(hubspot, BOB, member_id="m1")
    ada = create(hubspot, ADA)
    hubspot.http.delete(f"{CONTACTS}/{ada}")
    assert hubspot.upsert(by_email(ADA, city="Kiel"), by_email("c@example.com", member_id="m1")).status_code == 400
    assert [contact["properties"]["email"] for contact in sandbox.contacts()] == [BOB]
    assert hubspot.http.get(f"{CONTACTS}/{ada}?archived=true").status_code == 200


def test_a_merge_makes_a_new_record_of_two(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    ada = create(hubspot, ADA, city="Kiel", lifecyclestage="lead")
    bob = create(hubspot, BOB, city="Ulm", phone="1", lifecyclestage="customer")
    body = {"primaryObjectId": ada, "objectIdToMerge": bob}
    merged = hubspot.http.post(f"{CONTACTS}/merge", json=body).json()["id"]
    assert merged not in {ada, bob}
    [contact] = sandbox.contacts()
    properties = contact["properties"]
    assert (properties["email"], properties["hs_additional_emails"]) == (ADA, BOB)
    assert (properties["city"], properties["phone"], properties["lifecyclestage"]) == ("Kiel", "1", "customer")
    assert properties["hs_merged_object_ids"] == f"{ada};{bob}"
    assert hubspot.http.get(f"{CONTACTS}/{bob}").status_code == 404
    assert hubspot.upsert(by_email(BOB, "1")).json()["results"][0]["id"] == merged
    assert hubspot.http.post(f"{CONTACTS}/merge", json=body).status_code == 404


@pytest.mark.parametrize(("kept", "status"), [("freed", 200), ("kept", 207)])
def test_whether_a_merged_away_key_is_free_is_a_switch(
    sandbox: Sandbox, hubspot: HubSpotClient, kept: str, status: int
) -> None:
    sandbox.switch(merged_away_keys=kept)
    hubspot.create_key_property()
    ids = [create(hubspot, ADA, member_id="m1"), create(hubspot, BOB, member_id="m2")]
    hubspot.http.post(f"{CONTACTS}/merge", json={"primaryObjectId": ids[0], "objectIdToMerge": ids[1]})
    assert hubspot.upsert(by_member("m2", "1"), by_member("m3", "2")).status_code == status


def test_an_erased_address_is_refused_for_good(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    create(hubspot, ADA, hs_additional_emails="ada@work.example.com")
    for email in (ADA, "never@seen.example.com"):
        body = {"objectId": email, "idProperty": "email"}
        assert hubspot.http.post(f"{CONTACTS}/gdpr-delete", json=body).status_code == 204
    assert sandbox.contacts() == []
    for email in (ADA, "ada@work.example.com", "never@seen.example.com"):
        refused = hubspot.upsert(by_email(email)).json()
        assert (refused["category"], refused["message"]) == ("VALIDATION_ERROR", "email has been GDPR blacklisted")


def test_record_of_an_erased_contact_is_gone_archived_or_not(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    ada, bob = create(hubspot, ADA), create(hubspot, BOB)
    hubspot.http.delete(f"{CONTACTS}/{bob}")
    for record_id in (ada, bob):
        assert hubspot.http.post(f"{CONTACTS}/gdpr-delete", json={"objectId": record_id}).status_code == 204
        assert hubspot.http.get(f"{CONTACTS}/{record_id}").status_code == 404
        assert hubspot.http.get(f"{CONTACTS}/{record_id}?archived=true").status_code == 404
        assert hubspot.http.post(f"{CONTACTS}/gdpr-delete", json={"objectId": record_id}).status_code == 404
    for email in (ADA, BOB):
        assert hubspot.upsert(by_email(email)).json()["message"] == "email has been GDPR blacklisted"
    sandbox.switch(erased_record="emptied")
    assert hubspot.http.get(f"{CONTACTS}/{ada}").json()["properties"]["email"] is None
    carl = create(hubspot, "carl@example.com")
    hubspot.http.delete(f"{CONTACTS}/{carl}")
    sandbox.switch(gdpr_delete_of_archived=False)
    assert hubspot.http.post(f"{CONTACTS}/gdpr-delete", json={"objectId": carl}).status_code == 404


@pytest.mark.parametrize(
    ("answer", "status", "category"), [("forbidden", 403, "FORBIDDEN"), ("refused", 400, "VALIDATION_ERROR")]
)
def test_how_a_gdpr_deletion_is_refused_is_a_switch(
    sandbox: Sandbox, hubspot: HubSpotClient, answer: str, status: int, category: str
) -> None:
    sandbox.switch(gdpr_delete=answer)
    ada = create(hubspot, ADA)
    refused = hubspot.http.post(f"{CONTACTS}/gdpr-delete", json={"objectId": ada})
    assert (refused.status_code, refused.json()["category"]) == (status, category)
    assert hubspot.http.get(f"{CONTACTS}/{ada}").status_code == 200


def test_whether_a_merged_away_record_leads_to_its_survivor_is_a_switch(
    sandbox: Sandbox, hubspot: HubSpotClient
) -> None:
    sandbox.switch(merged_away_records="redirected")
    ada, bob, carl = (create(hubspot, it) for it in (ADA, BOB, "carl@example.com"))
    body = {"primaryObjectId": ada, "objectIdToMerge": bob}
    first = hubspot.http.post(f"{CONTACTS}/merge", json=body).json()["id"]
    body = {"primaryObjectId": carl, "objectIdToMerge": first}
    last = hubspot.http.post(f"{CONTACTS}/merge", json=body).json()["id"]
    assert {hubspot.http.get(f"{CONTACTS}/{it}").json()["id"] for it in (ada, bob, carl, first)} == {last}


def test_required_properties_are_enforced_on_2026_09_and_on_creation_only(
    sandbox: Sandbox, hubspot: HubSpotClient
) -> None:
    sandbox.change(rules={"required": ["firstname"]})
    for prefix, status in ((CONTACTS, 400), ("/crm/objects/2026-03/contacts", 200), ("/crm/v3/objects/contacts", 200)):
        answer = hubspot.http.post(f"{prefix}/batch/upsert", json={"inputs": [by_email(f"{status}{prefix[-15]}@x.io")]})
        assert answer.status_code == status
    refused = hubspot.upsert(by_email(ADA)).json()
    assert refused["errors"][0]["code"] == "MISSING_REQUIRED_PROPERTY"
    assert refused["errors"][0]["context"] == {"propertyName": ["firstname"]}
    assert hubspot.upsert(by_email(ADA, firstname="Ada")).status_code == 200
    assert hubspot.upsert(by_email(ADA, city="Kiel")).status_code == 200


def test_a_property_may_be_required_because_of_another(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    rule = {"when": "lifecyclestage", "equals": "customer", "require": "company"}
    sandbox.change(rules={"conditional": [rule]})
    assert hubspot.upsert(by_email(ADA)).status_code == 200
    refused = hubspot.upsert(by_email(ADA, "1", lifecyclestage="customer")).json()["errors"][0]
    assert refused["errors"][0]["code"] == "MISSING_CONDITIONAL_REQUIRED_PROPERTY"
    assert refused["errors"][0]["context"] == {"propertyName": ["company"]}
    assert hubspot.upsert(by_email(ADA, lifecyclestage="customer", company="Nerava")).status_code == 200


def test_an_archived_property_is_unknown_until_it_is_created_again(hubspot: HubSpotClient) -> None:
    hubspot.create_property("score", "number", "number")
    assert hubspot.http.delete(f"{PROPERTIES}/score").status_code == 204
    assert hubspot.http.get(f"{PROPERTIES}/score").status_code == 404
    assert hubspot.http.get(f"{PROPERTIES}/score?archived=true").json()["archived"] is True
    assert hubspot.upsert(by_email(ADA, score="1")).json()["errors"][0]["code"] == "PROPERTY_DOESNT_EXIST"
    assert hubspot.create_property("score", "string", "text").json()["type"] == "string"


def test_a_required_property_is_in_use_and_a_group_with_properties_stays(
    sandbox: Sandbox, hubspot: HubSpotClient
) -> None:
    hubspot.http.post(f"{PROPERTIES}/groups", json={"name": "rewards", "label": "Rewards"})
    hubspot.create_property("score", "number", "number", groupName="rewards")
    sandbox.change(rules={"required": ["score"]})
    in_use = hubspot.http.delete(f"{PROPERTIES}/score").json()
    assert in_use["subCategory"] == "PropertyValidationError.CANNOT_DELETE_PROPERTY_IN_USE"
    sandbox.change(rules={})
    active = hubspot.http.delete(f"{PROPERTIES}/groups/rewards")
    assert "GROUP_WITH_ACTIVE_PROPERTIES" in active.json()["message"]
    assert hubspot.http.delete(f"{PROPERTIES}/score").status_code == 204
    assert hubspot.http.delete(f"{PROPERTIES}/groups/rewards").status_code == 204


def test_a_lagging_search_finds_what_a_batch_read_has_at_once(hubspot: HubSpotClient, clock, sandbox: Sandbox) -> None:
    def found(**condition: object) -> list[str]:
        clock.advance(1)  # Five searches a second.
        body = {"filterGroups": [{"filters": [condition]}], "properties": ["city"]}
        return [it["properties"]["city"] for it in hubspot.http.post(f"{CONTACTS}/search", json=body).json()["results"]]

    by_address = {"propertyName": "email", "operator": "EQ", "value": "ADA@example.com"}
    hubspot.upsert(by_email(ADA, city="Kiel"))
    assert hubspot.http.post(READ, json={"idProperty": "email", "inputs": [{"id": ADA}]}).status_code == 200
    assert found(**by_address) == []
    clock.advance(3)
    assert found(**by_address) == ["Kiel"]
    hubspot.upsert(by_email(ADA, city="Ulm"))
    assert found(**by_address) == ["Kiel"]
    clock.advance(3)
    assert found(**by_address) == ["Ulm"]
    for operator, more, matches in (
        ("IN", {"values": ["ulm", "kiel"]}, True),
        ("NOT_IN", {"values": ["ulm"]}, False),
        ("HAS_PROPERTY", {}, True),
        ("NEQ", {"value": "Kiel"}, True),
        ("BETWEEN", {"value": "a", "highValue": "c"}, False),
    ):
        assert bool(found(propertyName="city", operator=operator, **more)) == matches
