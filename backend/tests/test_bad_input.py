"""Whatever a router tracks: nothing is raised, nothing is lost, and a person can read what was wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from app.models import OUTBOX
from app.services.hubspot import track_event

GOOD = {"user_id": "driver-1", "created_at": "2026-11-24T18:00:00Z"}


class Number(IntEnum):
    SEVEN = 7


class Word(Enum):
    SEVEN = "7"


class Silent:
    """What cannot be made text."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


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
        # Judged as it will be read: each would be something else in Python than in the table.
        ("driver_signed_up", GOOD | {"phone": Number.SEVEN}, "phone: Input should be a valid string"),
        ("driver_signed_up", GOOD | {"user_id": b"driver-1"}, "payload is no JSON"),
        ("nova_earned", GOOD | {"amount": Word.SEVEN, "earned_at": GOOD["created_at"]}, "payload is no JSON"),
        ("nova_earned", GOOD | {"amount": Decimal(7), "earned_at": GOOD["created_at"]}, "payload is no JSON"),
        ("nova_earned", GOOD | {"amount": 10**30, "earned_at": GOOD["created_at"]}, "amount: Input should be less"),
        ("nova_earned", GOOD | {"amount": 10**5000, "earned_at": GOOD["created_at"]}, "payload is no JSON"),
        ("driver_signed_up", GOOD | {"note": [Silent()]}, "payload is no JSON"),
        ("driver_signed_up", GOOD | {"note": {Silent(): 1}}, "payload is no JSON"),
        (None, GOOD, "event type must be text, not NoneType"),
        (None, None, "payload is a NoneType"),
        ([], GOOD, "event type must be text, not list"),
        (Silent(), GOOD, "event type must be text, not Silent"),
        ("driver_signed_up", [GOOD], "payload is a list"),
        ("driver_signed_up", None, "payload is a NoneType"),
    ],
)
def test_event_that_can_never_be_delivered_is_stored_as_failed_with_the_reason(
    engine: Engine, event_type: Any, payload: Any, reason: str
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
        raise Unspeakable


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


def test_event_of_a_connection_is_stored_as_a_sessions_is(engine: Engine) -> None:
    with engine.begin() as connection:
        kept = track_event(connection, "driver_signed_up", GOOD)
    with engine.connect() as connection:
        assert connection.execute(select(OUTBOX.events.c.event_id)).scalars().all() == [kept]


def test_event_in_autocommit_is_counted_and_logged_at_once_and_the_request_goes_on(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
    before = REGISTRY.get_sample_value("outbox_events_lost_total") or 0
    for open_db in (Session, Engine.connect):
        with open_db(engine) as db:
            event_id = track_event(db, "driver_signed_up", GOOD)
            assert str(event_id) in caplog.text
            assert "goes on without it" in caplog.text
            db.commit()
    assert REGISTRY.get_sample_value("outbox_events_lost_total") == before + 2
    assert count(engine) == 0
    engine.dispose()


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(OUTBOX.events)).all())
