"""Values reach HubSpot in its notation, or the event fails before it is sent, with a reason for a person."""

from __future__ import annotations

import json
import logging
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from hubspot_sync.event import ContactProperty, PropertyType, UnwritableValue, written
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
