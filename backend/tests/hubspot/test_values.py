"""Values reach HubSpot in its notation, or the event fails before it is sent, with a reason for a person."""

from __future__ import annotations

import json
import logging
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from app.events import CATALOG
from hubspot_sync.event import ContactProperty, PropertyType, UnwritableValue, written
from sqlalchemy_outbox.model import Event
from tests.hubspot.conftest import HubSpot


def of(type_: PropertyType, *options: str) -> ContactProperty:
    return ContactProperty("p", "P", type_, options)


BERLIN = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        (PropertyType.STRING, "Ada", "Ada"),
        (PropertyType.NUMBER, 12, "12"),
        (PropertyType.NUMBER, 1e22, "10000000000000000000000"),
        (PropertyType.NUMBER, 1e-7, "0.0000001"),
        (PropertyType.NUMBER, Decimal("12.50"), "12.50"),
        (PropertyType.BOOL, True, "true"),
        (PropertyType.DATE, date(2026, 11, 24), "2026-11-24"),
        (PropertyType.DATETIME, datetime(2026, 11, 24, 19, tzinfo=BERLIN), "2026-11-24T18:00:00.000Z"),
        (PropertyType.ENUMERATION, "otp", "otp"),
    ],
)
def test_value_is_written_as_hubspot_wants_it(type_: PropertyType, value: object, text: str) -> None:
    assert written(of(type_), value) == text


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (PropertyType.NUMBER, float("nan")),
        (PropertyType.NUMBER, float("inf")),
        (PropertyType.NUMBER, True),
        (PropertyType.NUMBER, "12"),
        (PropertyType.BOOL, "yes"),
        (PropertyType.DATE, datetime(2026, 11, 24, tzinfo=UTC)),
        (PropertyType.DATETIME, datetime(2026, 11, 24)),  # noqa: DTZ001  # The naive one is what is refused.
        (PropertyType.DATETIME, datetime(1, 1, 1, tzinfo=BERLIN)),
        (PropertyType.STRING, "x" * 65_537),
        (PropertyType.STRING, None),
    ],
)
def test_value_that_hubspot_could_not_take_is_refused(type_: PropertyType, value: object) -> None:
    with pytest.raises(UnwritableValue, match=r"^p: "):
        written(of(type_), value)


def test_option_that_is_not_declared_is_refused() -> None:
    with pytest.raises(UnwritableValue, match="not one of its options a, b"):
        written(of(PropertyType.ENUMERATION, "a", "b"), "c")


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ({"created_at": "2026-11-24T18:00:00"}, "created_at: Input should have timezone info"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, "nerava_signed_up_at"),
        ({"auth_provider": "fax"}, "auth_provider: Input should be 'otp'"),
        ({"phone": "x" * 256}, "phone: String should have at most 255 characters"),
        ({"email": "nobody"}, "is no email address"),
        ({"user_id": ""}, "user_id"),
        ({"phone": "\ud800"}, "phone"),
    ],
)
def test_event_with_such_a_value_fails_before_it_is_sent(
    hubspot: HubSpot, payload: dict[str, Any], complaint: str
) -> None:
    event_id = hubspot.track(
        "driver_signed_up", {"user_id": "driver-1", "created_at": "2026-11-24T18:00:00Z", **payload}
    )
    row = hubspot.row(event_id)
    assert row.failed_at is not None
    assert complaint in row.last_error
    hubspot.deliver()
    assert hubspot.upserts() == []


def properties_of(event_type: str, payload: dict[str, Any]) -> dict[str, str]:
    now = datetime.now(UTC)
    event = Event(1, uuid4(), event_type, "1", json.dumps(payload), now, 0, None, None, None)
    return CATALOG.properties_of(event)


SIGNED_UP_AT = "2026-11-24T18:00:00Z"


@pytest.mark.parametrize(
    "instant",
    [
        20260101,
        1767225600,
        1767225600.5,
        True,
        "20260101",
        "20260101120000",
        "1767225600",
        "1767225600.5",
        "-1",
        "+1",
        "1e9",
        "20260101T120000Z",
        "2026-11-24",
        "2026-11-24Z",
        "2026-W48-2T18:00Z",
        "2026-11-24_18:00:00Z",
        " 2026-11-24T18:00:00Z",
        "2026-11-24T18:00:00Z\n",
        "２０２６-11-24T18:00:00Z",
        "2026-11-24T18:00:00 UTC",
        "2026-02-30T18:00:00Z",
        "",
        [],
    ],
    ids=repr,
)
def test_instant_that_is_no_iso_8601_text_is_refused(instant: object) -> None:
    objection = CATALOG.objection_to("driver_signed_up", {"user_id": "1", "created_at": instant})
    assert objection is not None
    assert "created_at: " in objection


@pytest.mark.parametrize(
    ("instant", "written_"),
    [
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:00.000Z"),
        ("2026-11-24T18:00Z", "2026-11-24T18:00:00.000Z"),
        ("2026-11-24t18:00:00z", "2026-11-24T18:00:00.000Z"),
        ("2026-11-24T18:00:00.123456Z", "2026-11-24T18:00:00.123Z"),
        ("2026-11-24T18:00:00.123456789Z", "2026-11-24T18:00:00.123Z"),
        ("2026-11-24T18:00:00+05:45", "2026-11-24T12:15:00.000Z"),
        ("2026-11-24T18:00:00-0330", "2026-11-24T21:30:00.000Z"),
        ("2026-11-24 18:00:00+00:00", "2026-11-24T18:00:00.000Z"),
        # As PostgreSQL writes one.
        ("2026-11-24 18:00:00.5+01", "2026-11-24T17:00:00.500Z"),
        ("2026-11-24T18:00-05", "2026-11-24T23:00:00.000Z"),
    ],
)
def test_instant_in_iso_8601_with_an_offset_is_taken(hubspot: HubSpot, instant: str, written_: str) -> None:
    hubspot.sign_up("driver-1", created_at=instant)
    hubspot.deliver()
    assert (hubspot.contact("driver-1") or {})["nerava_signed_up_at"] == written_


@pytest.mark.parametrize("amount", [True, False, "1_000", "12", " 12 ", "+12", "1e3", 12.5, [12]], ids=repr)
@pytest.mark.parametrize("name", ["amount", "new_balance", "lifetime_earned", "earned_count"])
def test_number_that_is_no_whole_json_number_is_refused(name: str, amount: object) -> None:
    payload = {"user_id": "1", "earned_at": SIGNED_UP_AT, "amount": 1, name: amount}
    assert f"{name}: " in (CATALOG.objection_to("nova_earned", payload) or "")


@pytest.mark.parametrize("amount", [0, 12, 12.0, 2**53])
def test_whole_json_number_is_taken(amount: float) -> None:
    assert CATALOG.objection_to("nova_earned", {"user_id": "1", "earned_at": SIGNED_UP_AT, "amount": amount}) is None


@pytest.mark.parametrize("absent", ["", " ", "\t\n", "\x1c", "\u3000", "\ufeff", " \u200b "], ids=ascii)
def test_optional_field_without_a_word_counts_as_absent(hubspot: HubSpot, absent: str) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com", phone="+4917012345678", stage="signed_up")
    hubspot.earn("driver-1", 10, email=absent, phone=absent, stage=absent, session_id=absent, earned_count=absent)
    hubspot.sign_up("driver-2", email=absent, phone=absent, stage=absent, auth_provider=absent)
    hubspot.deliver()
    first, second = hubspot.contact("driver-1") or {}, hubspot.contact("driver-2") or {}
    assert (first["email"], first["phone"]) == ("ada@example.com", "+4917012345678")
    assert first["nerava_balance"] == "10"
    assert second["nerava_signed_up_at"] == "2026-11-24T18:00:00.000Z"
    assert "email" not in second


BLANKS = [*"\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"]
INVISIBLE = [*"\u180e\u200b\u200c\u200d\u2060\ufeff", " \u200b\t\ufeff"]


@pytest.mark.parametrize("blank", BLANKS + INVISIBLE, ids=ascii)
def test_subject_and_property_are_trimmed_alike(blank: str) -> None:
    payload = {
        "user_id": f"{blank}driver-1{blank}",
        "created_at": SIGNED_UP_AT,
        "email": f"{blank}A@example.com{blank}",
    }
    assert CATALOG.subject_of(payload) == "driver-1"
    properties = properties_of("driver_signed_up", payload)
    assert (properties["nerava_user_id"], properties["email"]) == ("driver-1", "a@example.com")


def test_drivers_that_differ_in_blanks_only_are_one_contact(hubspot: HubSpot) -> None:
    hubspot.sign_up("\x1cdriver-1")
    hubspot.earn("driver-1\x1f", 10)
    hubspot.deliver()
    assert (hubspot.contact("driver-1") or {})["nerava_balance"] == "10"
    assert len(hubspot.sandbox.contacts()) == 1


def test_dry_run_logs_the_redacted_request_that_live_would_send(
    hubspot: HubSpot, caplog: pytest.LogCaptureFixture
) -> None:
    hubspot.settings = hubspot.settings.model_copy(update={"hubspot_send_live": False})
    first = hubspot.sign_up("driver-1", email="ada@example.com", phone="123")
    hubspot.sign_up("driver-2", email="grace@example.com")
    hubspot.earn("driver-1", 10)
    caplog.set_level(logging.DEBUG, "hubspot_sync")
    hubspot.deliver()
    [line] = [
        it.getMessage() for it in caplog.records if it.levelno == logging.DEBUG and "Would POST" in it.getMessage()
    ]
    inputs = json.loads(line.partition(": ")[2])["inputs"]
    assert [it["idProperty"] for it in inputs] == ["nerava_user_id", "nerava_user_id"]
    assert inputs[0]["objectWriteTraceId"] == str(first)
    assert inputs[0]["properties"]["nerava_balance"] == "10"
    assert inputs[0]["id"] == "driver-1"
    assert inputs[0]["properties"]["phone"] == inputs[0]["properties"]["email"] == "[personal]"
    assert "@" not in line
