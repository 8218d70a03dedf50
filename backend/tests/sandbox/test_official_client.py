"""HubSpot's own Python client, which speaks v3, takes the sandbox for HubSpot."""

import httpx2
import pytest
from hubspot import HubSpot
from hubspot.crm import contacts as crm_contacts
from hubspot.crm import properties as crm_properties
from hubspot.crm.contacts.exceptions import ApiException
from hubspot.crm.properties.exceptions import ApiException as PropertiesApiException

from hubspot_sandbox import Sandbox


@pytest.fixture
def official(sandbox: Sandbox) -> HubSpot:
    def api(package, name, config):
        """The client's own factory has no setting for the host."""
        configuration = package.Configuration(host=sandbox.url)
        configuration.access_token = config["access_token"]
        return getattr(package, name)(package.ApiClient(configuration))

    return HubSpot(access_token="pat-na1-any", api_factory=api)


def upsert(official: HubSpot, *emails: str, traced: bool = True, **properties: str):
    inputs = [
        crm_contacts.SimplePublicObjectBatchInputUpsert(
            id=email,
            id_property="email",
            properties={"email": email, **properties},
            object_write_trace_id=str(i) if traced else None,
        )
        for i, email in enumerate(emails)
    ]
    batch = crm_contacts.BatchInputSimplePublicObjectBatchInputUpsert(inputs=inputs)
    return official.crm.contacts.batch_api.upsert(batch)


def test_a_batch_upsert_creates_and_then_updates(official: HubSpot, sandbox: Sandbox) -> None:
    first = upsert(official, "ada@example.com", "bob@example.com", city="Kiel")
    again = upsert(official, "ada@example.com", city="Ulm")
    assert (first.status, [row.new for row in first.results]) == ("COMPLETE", [True, True])
    assert [row.new for row in again.results] == [False]
    assert sandbox.contact(email="ada@example.com")["properties"]["city"] == "Ulm"


def test_a_207_is_read_as_a_batch_with_errors(official: HubSpot) -> None:
    answer = upsert(official, "ada@example.com", "nonsense")
    assert type(answer).__name__.endswith("WithErrors")
    assert answer.num_errors == 1
    assert answer.errors[0].context["objectWriteTraceId"] == ["1"]


def test_creating_a_contact_twice_is_a_409(official: HubSpot) -> None:
    wanted = crm_contacts.SimplePublicObjectInputForCreate(properties={"email": "ada@example.com"}, associations=[])
    created = official.crm.contacts.basic_api.create(wanted)
    with pytest.raises(ApiException) as refused:
        official.crm.contacts.basic_api.create(wanted)
    assert refused.value.status == 409
    assert created.id in refused.value.body


def test_a_throttle_is_a_429_with_its_policy(official: HubSpot, sandbox: Sandbox) -> None:
    sandbox.faults.add("throttle", requests=1)
    with pytest.raises(ApiException) as refused:
        upsert(official, "ada@example.com")
    assert refused.value.status == 429
    assert "TEN_SECONDLY_ROLLING" in refused.value.body


def test_properties_are_created_read_and_archived(official: HubSpot) -> None:
    api = official.crm.properties.core_api
    wanted = crm_properties.PropertyCreate(
        name="score", label="Score", type="number", field_type="number", group_name="contactinformation"
    )
    assert api.create(object_type="contacts", property_create=wanted).name == "score"
    assert "score" in {it.name for it in api.get_all(object_type="contacts").results}
    api.archive(object_type="contacts", property_name="score")
    assert "score" not in {it.name for it in api.get_all(object_type="contacts").results}


def test_contacts_are_found_by_search_and_page_by_page(official: HubSpot, sandbox: Sandbox) -> None:
    sandbox.change(search_lag_seconds=0)
    upsert(official, *(f"d{i}@example.com" for i in range(5)))
    request = crm_contacts.PublicObjectSearchRequest(
        filter_groups=[
            {"filters": [{"propertyName": "email", "operator": "CONTAINS_TOKEN", "value": "*@example.com"}]}
        ],
        sorts=["-email"],
        properties=["email"],
        limit=3,
    )
    found = official.crm.contacts.search_api.do_search(request)
    assert (found.total, found.paging.next.after) == (5, "3")
    assert [it.properties["email"] for it in found.results] == [f"d{i}@example.com" for i in (4, 3, 2)]
    assert len(official.crm.contacts.get_all()) == 5


def test_a_merge_and_an_archive_leave_one_contact_and_none(official: HubSpot, sandbox: Sandbox) -> None:
    ada, bob = sorted(upsert(official, "ada@example.com", "bob@example.com").results, key=lambda it: it.id)
    merged = official.crm.contacts.basic_api.merge(
        crm_contacts.PublicMergeInput(primary_object_id=ada.id, object_id_to_merge=bob.id)
    )
    assert merged.id not in {ada.id, bob.id}
    assert sandbox.contact(email="bob@example.com")["id"] == merged.id
    official.crm.contacts.basic_api.archive(merged.id)
    assert sandbox.contacts() == []


def test_the_client_and_a_plain_request_see_the_same(official: HubSpot, sandbox: Sandbox) -> None:
    record_id = upsert(official, "ada@example.com", traced=False).results[0].id
    url = f"{sandbox.url}/crm/objects/2026-09/contacts/{record_id}"
    plain = httpx2.get(url, headers={"Authorization": "Bearer t"}, trust_env=False).json()
    assert official.crm.contacts.basic_api.get_by_id(record_id).properties == plain["properties"]


def test_contacts_are_read_page_by_page_by_the_link_that_keeps_the_query(official: HubSpot, sandbox: Sandbox) -> None:
    upsert(official, *(f"d{i}@example.com" for i in range(5)), city="Kiel")
    url = f"{sandbox.url}/crm/v3/objects/contacts?limit=2&properties=city&properties=email&archived=false"
    seen, pages = [], 0
    while url:
        page = httpx2.get(url, headers={"Authorization": "Bearer t"}, trust_env=False).raise_for_status().json()
        assert all(contact["properties"]["city"] == "Kiel" for contact in page["results"])
        seen += [contact["id"] for contact in page["results"]]
        pages += 1
        url = page.get("paging", {}).get("next", {}).get("link")
        assert url is None or (url.startswith(f"{sandbox.url}/") and "archived=false" in url)
    assert (len(set(seen)), pages) == (5, 3)


def test_definitions_of_other_objects_are_empty_and_of_unknown_ones_refused(official: HubSpot) -> None:
    for name in ("companies", "deals", "line_items", "0-3", "2-1234"):
        assert official.crm.properties.core_api.get_all(object_type=name).results == []
        assert official.crm.properties.groups_api.get_all(object_type=name).results == []
    assert official.crm.schemas.core_api.get_all().results == []
    with pytest.raises(PropertiesApiException) as refused:
        official.crm.properties.core_api.get_all(object_type="nonsense")
    assert refused.value.status == 400
