"""The contact schema: what a fresh account has, and how clients extend it."""

import httpx2
import pytest

from hubspot_sandbox import Sandbox
from tests.sandbox.conftest import PROPERTIES, HubSpotClient, by_email


def test_a_fresh_account_has_only_hubspots_own_properties(hubspot: HubSpotClient) -> None:
    results = hubspot.http.get(PROPERTIES).json()["results"]
    assert all(definition["hubspotDefined"] for definition in results)
    assert {"email", "phone", "firstname", "lifecyclestage", "hs_object_id"} <= {d["name"] for d in results}


def test_a_property_can_be_written_once_it_is_created(hubspot: HubSpotClient) -> None:
    assert hubspot.upsert(by_email("ada@example.com", score="1")).status_code == 400
    created = hubspot.create_property("score", "number", "number")
    assert created.status_code == 201
    assert hubspot.http.get(f"{PROPERTIES}/score").json() == created.json()
    assert hubspot.upsert(by_email("ada@example.com", score="1")).status_code == 200


def test_an_unknown_property_is_not_found(hubspot: HubSpotClient) -> None:
    answer = hubspot.http.get(f"{PROPERTIES}/score")
    assert answer.status_code == 404
    assert answer.json()["category"] == "OBJECT_NOT_FOUND"


def test_a_property_that_exists_is_not_created_again(hubspot: HubSpotClient) -> None:
    hubspot.create_property("score", "number", "number")
    answer = hubspot.create_property("score", "number", "number")
    assert answer.status_code == 409
    assert answer.json()["subCategory"] == "Properties.PROPERTY_WITH_NAME_EXISTS"
    assert answer.json()["message"] == "A property named 'score' already exists."


def test_a_batch_creates_what_is_new_and_names_what_exists(hubspot: HubSpotClient) -> None:
    hubspot.create_property("score", "number", "number")
    inputs = [
        {"name": name, "label": name, "type": "number", "fieldType": "number", "groupName": "contactinformation"}
        for name in ("score", "rank")
    ]
    answer = hubspot.http.post(f"{PROPERTIES}/batch/create", json={"inputs": inputs})
    assert answer.status_code == 207
    assert [row["name"] for row in answer.json()["results"]] == ["rank"]
    assert answer.json()["errors"][0]["context"] == {"name": ["score"]}


@pytest.mark.parametrize(
    "definition",
    [
        {"name": "Upper", "type": "string", "fieldType": "text"},
        {"name": "x", "type": "text", "fieldType": "text"},
        {"name": "x", "type": "number", "fieldType": "text"},
        {"name": "x", "type": "enumeration", "fieldType": "select"},
        {"name": "x", "type": "string", "fieldType": "text", "groupName": "nowhere"},
        {"name": "x", "type": "bool", "fieldType": "booleancheckbox", "hasUniqueValue": True},
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(hubspot: HubSpotClient, definition: dict[str, object]) -> None:
    answer = hubspot.http.post(PROPERTIES, json={"label": "X", "groupName": "contactinformation", **definition})
    assert answer.status_code == 400
    assert answer.json()["category"] == "VALIDATION_ERROR"


def test_contacts_have_at_most_ten_unique_properties(hubspot: HubSpotClient) -> None:
    for i in range(10):
        hubspot.create_key_property(f"key_{i}")
    assert hubspot.create_property("key_10", "string", "text", hasUniqueValue=True).status_code == 400


def test_a_patch_replaces_options_and_silently_keeps_name_and_uniqueness(hubspot: HubSpotClient) -> None:
    hubspot.create_property("tier", "enumeration", "select", options=[{"label": "A", "value": "a"}])
    changes = {"name": "level", "hasUniqueValue": True, "label": "Tier", "options": [{"label": "B", "value": "b"}]}
    patched = hubspot.http.patch(f"{PROPERTIES}/tier", json=changes).json()
    assert (patched["name"], patched["hasUniqueValue"], patched["label"]) == ("tier", False, "Tier")
    assert [option["value"] for option in patched["options"]] == ["b"]
    assert hubspot.upsert(by_email("ada@example.com", tier="a")).status_code == 400
    assert hubspot.upsert(by_email("ada@example.com", tier="b")).status_code == 200


def test_groups_are_created_once_read_and_renamed(hubspot: HubSpotClient) -> None:
    group = {"name": "rewards", "label": "Rewards"}
    assert hubspot.http.post(f"{PROPERTIES}/groups", json=group).status_code == 201
    assert hubspot.http.post(f"{PROPERTIES}/groups", json=group).status_code == 409
    assert hubspot.http.patch(f"{PROPERTIES}/groups/rewards", json={"label": "R"}).json()["label"] == "R"
    assert hubspot.http.get(f"{PROPERTIES}/groups/rewards").json()["label"] == "R"
    names = [found["name"] for found in hubspot.http.get(f"{PROPERTIES}/groups").json()["results"]]
    assert names == ["contactinformation", "rewards"]
    assert hubspot.create_property("points", "number", "number", groupName="rewards").status_code == 201


def test_account_details_name_the_portal_and_its_time_zone(hubspot: HubSpotClient) -> None:
    for version in ("v3", "2026-03", "2026-09"):
        details = hubspot.http.get(f"/account-info/{version}/details").json()
        assert (details["portalId"], details["timeZone"]) == (12345678, "US/Eastern")


def test_an_unknown_object_name_and_an_unknown_path_are_told_apart(hubspot: HubSpotClient) -> None:
    wrong_object = hubspot.http.post("/crm/objects/2026-09/contact/batch/upsert", json={"inputs": []})
    assert wrong_object.status_code == 400
    assert wrong_object.json()["message"] == "Unable to infer object type from: contact"
    assert hubspot.http.post("/crm/objects/2025-01/contacts/batch/upsert", json={}).status_code == 404


@pytest.mark.parametrize("authorization", [None, "Bearer", "Basic secret", "Bearer wrong"])
def test_without_the_right_token_nothing_is_answered(authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    with Sandbox(tokens=["right"], portal_id=77) as sandbox:
        url = f"{sandbox.url}/account-info/v3/details"
        refused = httpx2.get(url, headers=headers, trust_env=False)
        accepted = httpx2.get(url, headers={"Authorization": "Bearer right"}, trust_env=False)
    assert refused.status_code == 401
    assert refused.json()["category"] == "INVALID_AUTHENTICATION"
    assert accepted.json()["portalId"] == 77
