"""The kit that applications test with shows what HubSpot would get, and takes their events all the way to a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, MetaData, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import hubspot_sync as hs
from app.events import CATALOG
from hubspot_sandbox import Sandbox
from hubspot_sync import Tracker
from hubspot_sync.testing import Sent, deliver_to, sent_to_hubspot
from sqlalchemy_outbox import define_outbox, worker_engine
from sqlalchemy_outbox.testing import assert_enqueued, create_tables, enqueued

SIGNED_UP = {"user_id": "d1", "email": "Ada@Example.com", "created_at": "2026-11-24T06:40:02Z"}
EARNED = {"user_id": "d1", "amount": 5, "earned_at": "2026-11-24T07:40:02Z", "new_balance": 12}
OUTBOX = define_outbox(MetaData(), "lane_events")
track = Tracker(CATALOG, OUTBOX)


@pytest.fixture
def lane(empty_database_url: str) -> Iterator[Engine]:
    create_tables(engine := worker_engine(empty_database_url), OUTBOX)
    yield engine
    engine.dispose()


def test_events_of_a_subject_are_shown_as_the_one_upsert_that_hubspot_would_get() -> None:
    other = {**SIGNED_UP, "user_id": "d2", "email": "grace@example.com"}
    sent = sent_to_hubspot(
        CATALOG, ("driver_signed_up", SIGNED_UP), ("driver_signed_up", other), ("nova_earned", EARNED)
    )
    assert sent[0] == Sent(
        "nerava_user_id",
        "d1",
        {
            "nerava_user_id": "d1",
            "email": "ada@example.com",
            "nerava_signed_up_at": "2026-11-24T06:40:02.000Z",
            "nerava_last_earned_at": "2026-11-24T07:40:02.000Z",
            "nerava_balance": "12",
        },
    )
    assert [upsert.key for upsert in sent] == ["d1", "d2"]


def test_event_that_could_never_be_delivered_fails_the_test_in_its_words() -> None:
    with pytest.raises(AssertionError, match="created_at: Field required"):
        sent_to_hubspot(CATALOG, ("driver_signed_up", {"user_id": "d1"}))


@pytest.mark.parametrize(
    "payload", [{"created_at": datetime(2026, 11, 24, tzinfo=UTC)}, {"stage": float("nan")}, {"note": "x" * 70_000}]
)
def test_payload_that_cannot_be_stored_fails_the_test_in_the_words_of_the_stored_event(
    lane: Engine, payload: dict[str, object]
) -> None:
    with Session(lane) as db, db.begin():
        track(db, "driver_signed_up", {**SIGNED_UP, **payload})
    with lane.connect() as connection:
        stored = connection.execute(select(OUTBOX.events.c.last_error)).scalar_one()
    with pytest.raises(AssertionError) as failed:
        sent_to_hubspot(CATALOG, ("driver_signed_up", {**SIGNED_UP, **payload}))
    assert str(failed.value) == stored


def test_application_forgets_a_subject_by_public_names_and_its_contact_is_erased(
    lane: Engine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = define_outbox(MetaData(), "lane_events")  # The key is the outbox's own, and other tests have none.
    with Session(lane) as db, db.begin(), pytest.raises(hs.ErasureKeyMissing):
        hs.forget(db, outbox, CATALOG, "d1", reason="asked for it")
    monkeypatch.setenv("HUBSPOT_ERASURE_KEY", "k" * 32)
    with Session(lane) as db, db.begin():
        hs.Tracker(CATALOG, outbox)(db, "driver_signed_up", SIGNED_UP)
    deliver_to(sandbox.url, lane, outbox, CATALOG)
    assert sandbox.contact(nerava_user_id="d1") is not None
    with Session(lane) as db, db.begin():
        hs.forget(db, outbox, CATALOG, "d1", reason="asked for it")
    deliver_to(sandbox.url, lane, outbox, CATALOG)
    assert sandbox.contacts() == []


def test_whole_lane_is_tested_in_ten_lines(lane: Engine, sandbox: Sandbox) -> None:
    with Session(lane) as db, db.begin():
        track(db, "driver_signed_up", SIGNED_UP)
    assert_enqueued(lane, OUTBOX, "driver_signed_up", user_id="d1")
    [upsert] = sent_to_hubspot(CATALOG, *enqueued(lane, OUTBOX))
    deliver_to(sandbox.url, lane, OUTBOX, CATALOG)
    contact = sandbox.contact(nerava_user_id="d1")
    assert contact is not None
    assert upsert.properties.items() <= contact["properties"].items()


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
async def test_async_application_tests_its_lane_likewise(empty_database_url: str, sandbox: Sandbox) -> None:
    engine = create_async_engine(empty_database_url.replace("sqlite://", "sqlite+aiosqlite://"))
    create_tables(engine, OUTBOX)
    async with AsyncSession(engine) as db, db.begin():
        track(db, "driver_signed_up", SIGNED_UP)
    assert_enqueued(engine, OUTBOX, "driver_signed_up", user_id="d1")
    await asyncio.to_thread(deliver_to, sandbox.url, worker_engine(engine), OUTBOX, CATALOG)
    assert sandbox.contact(nerava_user_id="d1") is not None
    await engine.dispose()
