"""HubSpot's newer Python client, which speaks 2026-03, takes the sandbox for HubSpot."""

from collections.abc import Iterator

import hubspot_sdk
import pytest

from hubspot_sandbox import Sandbox


@pytest.fixture
def newer(sandbox: Sandbox) -> Iterator[hubspot_sdk.HubSpot]:
    with hubspot_sdk.HubSpot(access_token="pat-na1-any", base_url=sandbox.url, max_retries=0) as client:
        yield client


def test_contacts_are_created_listed_page_by_page_and_upserted(newer: hubspot_sdk.HubSpot) -> None:
    contacts = newer.crm.objects.contacts
    for n in range(5):
        contacts.create(associations=[], properties={"email": f"d{n}@example.com", "city": "Kiel"})
    page = contacts.list(limit=2, properties=["city"])
    assert "/crm/objects/2026-03/contacts?limit=2&properties=city&after=" in page.paging.next.link
    assert [contact.properties["city"] for contact in page] == ["Kiel"] * 5
    upserted = contacts.batch.upsert(
        inputs=[{"id": "d1@example.com", "id_property": "email", "properties": {"city": "Ulm"}}]
    )
    assert (upserted.status, [row.new for row in upserted.results]) == ("COMPLETE", [False])
    with pytest.raises(hubspot_sdk.ConflictError):
        contacts.create(associations=[], properties={"email": "d0@example.com"})


def test_definitions_of_other_objects_are_empty(newer: hubspot_sdk.HubSpot) -> None:
    assert newer.crm.properties.list("companies").results == []
