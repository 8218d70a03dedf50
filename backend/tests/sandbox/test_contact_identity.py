"""How HubSpot decides which contact is meant, and what it says when two could be."""

from hubspot_sandbox import Sandbox
from tests.sandbox.conftest import CONTACTS, READ, HubSpotClient, by_email, by_member


def test_addresses_match_whatever_their_case(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.upsert(by_email("Ada@Example.com"))
    hubspot.upsert(by_email("ADA@EXAMPLE.COM"))
    assert len(sandbox.contacts()) == 1


def test_a_secondary_address_finds_the_contact_and_stays_secondary(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.upsert(by_email("ada@example.com", hs_additional_emails="ada@work.example.com"))
    row = hubspot.upsert(by_email("ada@work.example.com", "1", city="Kiel")).json()["results"][0]
    assert row["new"] is False
    assert properties_of(sandbox, "ada@work.example.com")["email"] == "ada@example.com"
    assert properties_of(sandbox, "ada@example.com")["city"] == "Kiel"


def test_writing_a_secondary_address_as_email_makes_it_the_primary_one(
    sandbox: Sandbox, hubspot: HubSpotClient
) -> None:
    hubspot.upsert(by_email("ada@example.com", hs_additional_emails="ada@work.example.com"))
    hubspot.upsert(by_email("ada@work.example.com", "1", email="ada@work.example.com"))
    assert properties_of(sandbox, "ada@example.com")["email"] == "ada@work.example.com"
    assert len(sandbox.contacts()) == 1


def test_a_changed_address_frees_the_old_one(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.create_key_property()
    hubspot.upsert(by_member("m1", "1", email="old@example.com"))
    hubspot.upsert(by_member("m1", "1", email="new@example.com"))
    assert sandbox.contact(email="old@example.com") is None
    assert properties_of(sandbox, "new@example.com")["member_id"] == "m1"


def test_a_unique_value_of_another_contact_names_both_records(sandbox: Sandbox, hubspot: HubSpotClient) -> None:
    hubspot.create_key_property()
    holder = hubspot.upsert(by_email("ada@example.com", member_id="m1")).json()["results"][0]["id"]
    writer = hubspot.upsert(by_email("bob@example.com")).json()["results"][0]["id"]
    answer = hubspot.upsert(by_email("bob@example.com", "1", member_id="m1"))
    assert answer.status_code == 207
    error = answer.json()["errors"][0]
    assert error["category"] == "VALIDATION_ERROR"
    assert error["errors"][0]["code"] == "CONFLICTING_UNIQUE_VALUE"
    assert error["message"] == (
        "Cannot set PropertyValueCoordinates{portalId=12345678, objectTypeId=ObjectTypeId{legacyObjectType=CONTACT}, "
        f"propertyName=member_id, value=m1}} on {writer}. {holder} already has that value."
    )


def test_an_address_of_another_contact_is_a_conflict_with_its_id(hubspot: HubSpotClient) -> None:
    hubspot.create_key_property()
    holder = hubspot.upsert(by_email("ada@example.com")).json()["results"][0]["id"]
    traced = hubspot.upsert(by_member("m2", "7", email="ada@example.com"))
    assert traced.status_code == 207
    assert traced.json()["errors"][0]["category"] == "CONFLICT"
    assert traced.json()["errors"][0]["context"] == {"existingId": [holder], "objectWriteTraceId": ["7"]}
    untraced = hubspot.upsert(by_member("m2", email="ada@example.com"))
    assert untraced.status_code == 409
    assert untraced.json()["message"] == f"Contact already exists. Existing ID: {holder}"


def test_creating_an_existing_contact_is_a_conflict(hubspot: HubSpotClient) -> None:
    assert hubspot.http.post(CONTACTS, json={"properties": {"email": "ada@example.com"}}).status_code == 201
    answer = hubspot.http.post(CONTACTS, json={"properties": {"email": "ADA@example.com"}})
    assert answer.status_code == 409
    assert answer.json()["category"] == "CONFLICT"


def test_a_contact_is_read_and_patched_by_id_and_by_address(hubspot: HubSpotClient) -> None:
    record_id = hubspot.upsert(by_email("ada@example.com", firstname="Ada")).json()["results"][0]["id"]
    by_id = hubspot.http.get(f"{CONTACTS}/{record_id}", params={"properties": "phone,lifecyclestage,unheard_of"})
    assert by_id.json()["properties"]["firstname"] == "Ada"
    assert by_id.json()["properties"]["phone"] is None
    assert "unheard_of" not in by_id.json()["properties"]
    assert "new" not in by_id.json()
    patched = hubspot.http.patch(
        f"{CONTACTS}/ada@example.com", params={"idProperty": "email"}, json={"properties": {"phone": "+49 1"}}
    )
    assert patched.status_code == 200
    assert patched.json()["id"] == record_id
    assert "new" not in patched.json()


def test_an_unknown_record_is_not_found(hubspot: HubSpotClient) -> None:
    answer = hubspot.http.get(f"{CONTACTS}/1")
    assert answer.status_code == 404
    assert answer.json()["category"] == "OBJECT_NOT_FOUND"


def test_a_batch_read_names_what_it_found_and_what_it_did_not(hubspot: HubSpotClient) -> None:
    hubspot.upsert(by_email("ada@example.com", city="Kiel"))
    answer = hubspot.http.post(
        READ,
        json={
            "idProperty": "email",
            "properties": ["city"],
            "inputs": [{"id": "ADA@example.com"}, {"id": "x@example.com"}, {"id": "y@example.com"}],
        },
    )
    assert answer.status_code == 207
    body = answer.json()
    assert body["results"][0]["properties"]["city"] == "Kiel"
    assert body["numErrors"] == 1
    assert body["errors"][0]["category"] == "OBJECT_NOT_FOUND"
    assert body["errors"][0]["context"] == {"ids": ["x@example.com", "y@example.com"]}


def properties_of(sandbox: Sandbox, email: str) -> dict[str, str]:
    contact = sandbox.contact(email=email)
    assert contact is not None
    properties = contact["properties"]
    assert isinstance(properties, dict)
    return properties
