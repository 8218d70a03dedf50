"""Whatever a router tracks: nothing is raised, nothing is lost, and a person can read what was wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import OUTBOX
from app.services.hubspot import track_event

GOOD = {"user_id": "driver-1", "created_at": "2026-11-24T18:00:00Z"}


@pytest.mark.parametrize(
    ("event_type", "payload", "reason"),
    [
        ("driver_signed_off", GOOD, "unknown event type 'driver_signed_off'; known are driver_signed_up, "),
        ("", GOOD, "unknown event type ''"),
        ("driver_signed_up", {"user_id": "driver-1"}, "created_at: Field required"),
        ("driver_signed_up", GOOD | {"created_at": "2026-11-24T18:00:00"}, "created_at: Input should have timezone"),
        ("driver_signed_up", GOOD | {"created_at": datetime(2026, 11, 24)}, "payload is no JSON"),  # noqa: DTZ001
        ("driver_signed_up", GOOD | {"auth_provider": "carrier pigeon"}, "auth_provider: Input should be 'otp', "),
        ("driver_signed_up", GOOD | {"email": "nobody"}, "is no email address"),
        ("driver_signed_up", GOOD | {"user_id": ""}, "user_id: String should have at least 1 character"),
        ("driver_signed_up", GOOD | {"user_id": 7}, "user_id: Input should be a valid string"),
        ("driver_signed_up", GOOD | {"phone": "\ud800"}, "phone: Input should be a valid string"),
        ("driver_signed_up", GOOD | {"phone": "\0"}, "phone: Value error, must not contain NUL"),
        ("driver_signed_up", GOOD | {"note": "x" * 1_000_000}, "payload has 1000"),
        ("nova_earned", GOOD | {"amount": float("nan"), "earned_at": "2026-11-24T18:00:00Z"}, "payload is no JSON"),
        ("nova_earned", GOOD | {"amount": -1, "earned_at": "2026-11-24T18:00:00Z"}, "amount: Input should be greater"),
        ("driver_signed_up", [GOOD], "payload is a list"),
        ("driver_signed_up", None, "payload is a NoneType"),
    ],
)
def test_event_that_can_never_be_delivered_is_stored_as_failed_with_the_reason(
    engine: Engine, event_type: str, payload: Any, reason: str
) -> None:
    with Session(engine) as db, db.begin():
        before = track_event(db, "driver_signed_up", GOOD)
        bad = track_event(db, event_type, payload)
        after = track_event(db, "driver_signed_up", GOOD)
    c = OUTBOX.events.c
    with engine.connect() as connection:
        rows = {row.event_id: row for row in connection.execute(select(OUTBOX.events).order_by(c.id))}
    assert list(rows) == [before, bad, after]
    assert rows[bad].failed_at is not None
    assert reason in rows[bad].last_error
    assert rows[before].failed_at is None
    assert rows[after].failed_at is None


class Hostile(Mapping[str, object]):
    """A payload that raises whatever is asked of it."""

    def __getitem__(self, key: str) -> object:
        raise ZeroDivisionError

    def __iter__(self) -> Iterator[str]:
        raise ZeroDivisionError

    def __len__(self) -> int:
        raise ZeroDivisionError


@pytest.mark.parametrize("db", [None, "a session"], ids=repr)
def test_no_session_at_all_is_a_counted_loss_and_not_an_error(db: Any) -> None:
    before = REGISTRY.get_sample_value("outbox_events_lost_total") or 0
    track_event(db, "driver_signed_up", GOOD)
    assert REGISTRY.get_sample_value("outbox_events_lost_total") == before + 1


def test_hostile_payload_is_no_error_of_the_request(engine: Engine) -> None:
    with Session(engine) as db, db.begin():
        track_event(db, "driver_signed_up", Hostile())
        kept = track_event(db, "driver_signed_up", GOOD)
    with engine.connect() as connection:
        assert kept in connection.execute(select(OUTBOX.events.c.event_id)).scalars().all()
