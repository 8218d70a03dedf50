"""What HubSpot accepts as a value, and what it makes of it."""

import pytest

from hubspot_sandbox import Sandbox, Switches
from tests.sandbox.conftest import HubSpotClient, MovableClock, by_email

OPTIONS = [{"label": "Option A", "value": "a"}, {"label": "Option B", "value": "b"}, {"label": "C", "value": "c"}]


@pytest.fixture
def typed(hubspot: HubSpotClient) -> HubSpotClient:
    """An account with one property of each type."""
    hubspot.create_property("a_number", "number", "number")
    hubspot.create_property("a_date", "date", "date")
    hubspot.create_property("a_datetime", "datetime", "date")
    hubspot.create_property("a_bool", "bool", "booleancheckbox")
    hubspot.create_property("a_choice", "enumeration", "select", options=OPTIONS)
    hubspot.create_property("some_boxes", "enumeration", "checkbox", options=OPTIONS)
    return hubspot


@pytest.mark.parametrize(
    ("name", "sent", "kept"),
    [
        ("a_number", "12.5", "12.5"),
        ("a_number", 12, "12"),
        ("a_date", "2026-02-28", "2026-02-28"),
        ("a_date", "1786320000000", "2026-08-10"),
        ("a_datetime", "2026-02-28T12:00:00.5Z", "2026-02-28T12:00:00.500Z"),
        ("a_datetime", "2026-02-28T13:00:00+01:00", "2026-02-28T12:00:00.000Z"),
        ("a_datetime", 1786334400000, "2026-08-10T04:00:00.000Z"),
        ("a_bool", "true", "true"),
        ("a_bool", False, "false"),
        ("a_choice", "b", "b"),
        ("some_boxes", "a;c", "a;c"),
        ("firstname", "Zoë \0 🚗", "Zoë \0 🚗"),
        ("email", "  ADA@Example.com ", "ada@example.com"),
    ],
)
def test_a_valid_value_is_kept_in_stored_form(typed: HubSpotClient, name: str, sent: object, kept: str) -> None:
    row = typed.upsert(by_email("ada@example.com", "1", **{name: sent})).json()["results"][0]
    assert row["properties"][name] == kept


@pytest.mark.parametrize(
    ("name", "sent", "code", "message"),
    [
        ("email", "ada@", "INVALID_EMAIL", "Email address ada@ is invalid"),
        ("email", "a..b@example.com", "INVALID_EMAIL", "Email address a..b@example.com is invalid"),
        ("a_number", "asd", "INVALID_LONG", "asd was not a valid long."),
        ("a_number", "1,000", "INVALID_LONG", "1,000 was not a valid long."),
        ("a_number", "NaN", "INVALID_LONG", "NaN was not a valid long."),
        ("a_date", "1786334400000", "INVALID_DATE", "1786334400000 is at 4:0:0.0 UTC, not midnight!"),
        ("a_date", "2026-02-30", "INVALID_DATE", "2026-02-30 was not a valid date."),
        ("a_datetime", "yesterday", "INVALID_DATE", "yesterday was not a valid datetime."),
        ("a_datetime", "2026-02-28T12:00:00", "INVALID_DATE", "2026-02-28T12:00:00 was not a valid datetime."),
        ("a_datetime", "9" * 30, "INVALID_DATE", None),
        ("a_bool", "yes", "INVALID_OPTION", "yes was not one of the allowed options: [true, false]"),
        ("a_choice", "Option A", "INVALID_OPTION", "Option A was not one of the allowed options: [a, b, c]"),
        ("a_choice", "a;b", "INVALID_OPTION", None),
        ("some_boxes", "a;d", "INVALID_OPTION", None),
        ("createdate", "2026-02-28T12:00:00Z", "READ_ONLY_VALUE", None),
    ],
)
def test_an_invalid_value_is_refused_with_its_code(
    typed: HubSpotClient, name: str, sent: str, code: str, message: str | None
) -> None:
    error = typed.upsert(by_email("ada@example.com", "1", **{name: sent})).json()["errors"][0]["errors"][0]
    assert error["code"] == code
    assert error["context"] == {"propertyName": [name]}
    assert message in (None, error["message"])


def test_an_empty_string_clears_and_comes_back_empty(sandbox: Sandbox, typed: HubSpotClient) -> None:
    typed.upsert(by_email("ada@example.com", "1", a_number="1"))
    row = typed.upsert(by_email("ada@example.com", "1", a_number="")).json()["results"][0]
    assert row["properties"]["a_number"] == ""
    assert "a_number" not in sandbox.contacts()[0]["properties"]  # type: ignore[operator]


def test_a_leading_semicolon_ticks_one_more_box(typed: HubSpotClient) -> None:
    typed.upsert(by_email("ada@example.com", "1", some_boxes="a;b"))
    row = typed.upsert(by_email("ada@example.com", "1", some_boxes=";c")).json()["results"][0]
    assert row["properties"]["some_boxes"] == "a;b;c"


def test_properties_that_are_not_sent_stay_as_they_are(hubspot: HubSpotClient, sandbox: Sandbox) -> None:
    hubspot.upsert(by_email("ada@example.com", "1", city="Kiel"))
    row = hubspot.upsert(by_email("ada@example.com", "1", phone="1")).json()["results"][0]
    assert "city" not in row["properties"]
    assert sandbox.contacts()[0]["properties"]["city"] == "Kiel"  # type: ignore[index]


def test_the_lifecycle_stage_only_moves_forward_and_says_nothing_about_it(hubspot: HubSpotClient) -> None:
    def stage_after(stage: str) -> str:
        answer = hubspot.upsert(by_email("ada@example.com", "1", lifecyclestage=stage))
        assert answer.status_code == 200
        found: str = answer.json()["results"][0]["properties"].get("lifecyclestage", "")
        return found

    assert stage_after("opportunity") == "opportunity"
    assert stage_after("lead") == "opportunity"
    assert stage_after("customer") == "customer"
    assert stage_after("") == ""
    assert stage_after("lead") == "lead"


def test_a_stage_that_is_no_option_any_more_can_be_left(hubspot: HubSpotClient) -> None:
    hubspot.upsert(by_email("ada@example.com", "1", lifecyclestage="evangelist"))
    changes = {"options": [{"label": "Lead", "value": "lead"}]}
    hubspot.http.patch("/crm/properties/2026-09/contacts/lifecyclestage", json=changes)
    row = hubspot.upsert(by_email("ada@example.com", "1", lifecyclestage="lead")).json()["results"][0]
    assert row["properties"]["lifecyclestage"] == "lead"


def test_writing_what_is_already_there_does_not_touch_the_modification_date(
    hubspot: HubSpotClient, clock: MovableClock
) -> None:
    first = hubspot.upsert(by_email("ada@example.com", "1", city="Kiel")).json()["results"][0]
    clock.advance(60)
    same = hubspot.upsert(by_email("ada@example.com", "1", city="Kiel")).json()["results"][0]
    other = hubspot.upsert(by_email("ada@example.com", "1", city="Ulm")).json()["results"][0]
    assert same["updatedAt"] == first["updatedAt"]
    assert other["updatedAt"] > first["updatedAt"]


def test_identical_writes_can_be_switched_to_touch_the_modification_date(clock: MovableClock) -> None:
    switches = Switches(identical_write_bumps_lastmodifieddate=True)
    with Sandbox(clock=clock, switches=switches) as sandbox:
        contact = sandbox.run(lambda account: account.contacts.create({"city": "Kiel"}, clock()))
        clock.advance(60)
        sandbox.run(lambda account: account.contacts.update(contact, {"city": "Kiel"}, clock()))
        assert contact.updated_at == contact.created_at + 60
