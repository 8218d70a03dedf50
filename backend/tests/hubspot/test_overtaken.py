"""What newer events have set, or may have set, no older one undoes: after retries, crashes, lost answers, deploys."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import insert, select, update
from typer.testing import CliRunner

from app.cli import cli
from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sync.event import DROPPED
from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.housekeeping import workers
from sqlalchemy_outbox.housekeeping.workers import REMEMBERED_FOR
from tests.hubspot.conftest import HubSpot

NOW = datetime(2026, 11, 24, tzinfo=UTC)
EARNED = {"amount": 1, "earned_at": "2026-11-24T19:00:00Z"}
OF_A_NEWER_RELEASE = "charging_started"


def contact(hubspot: HubSpot) -> dict[str, str]:
    found = hubspot.contact("driver-1")
    assert found is not None
    return found


def fail(hubspot: HubSpot, **payload: object) -> UUID:
    """HubSpot refuses an event that says where the driver is, and how to reach her."""
    hubspot.sandbox.faults.add("refused", requests=1, path="/batch/upsert")
    event_id = hubspot.earn("driver-1", 1, email="old@example.com", phone="+491", stage="signed_up", **payload)
    hubspot.deliver()
    assert hubspot.row(event_id).failed_at is not None
    return event_id


def retry(hubspot: HubSpot, event_id: UUID, *, is_cautious: bool = False) -> None:
    hubspot.queue.retry(hubspot.row(event_id).id, is_cautious=is_cautious)
    hubspot.deliver()


def store_delivered(hubspot: HubSpot, *payloads: str, event_type: str = "nova_earned") -> list[UUID]:
    """Events that were delivered by some release, and changed nothing at HubSpot since."""
    now = DatabaseNow()
    values = {"event_type": event_type, "subject": "driver-1", "created_at": now, "available_at": now}
    with hubspot.engine.begin() as connection:
        return [
            connection.execute(
                insert(OUTBOX.events)
                .values(event_id=UUID(int=n + 1), payload=payload, processed_at=now, **values)
                .returning(OUTBOX.events.c.event_id)
            ).scalar_one()
            for n, payload in enumerate(payloads)
        ]


@pytest.mark.parametrize("newer", [1, 1500])
def test_retry_behind_any_number_of_newer_events_leaves_what_the_newest_said_of_each_property(
    hubspot: HubSpot, newer: int
) -> None:
    old = fail(hubspot)
    hubspot.earn("driver-1", 2, email="new@example.com", phone="+492", stage="redeeming")
    hubspot.deliver()
    store_delivered(
        hubspot,
        *[json.dumps({"user_id": "driver-1", **EARNED})] * newer,
    )
    retry(hubspot, old)
    assert hubspot.is_delivered(old)
    found = contact(hubspot)
    assert (found["email"], found["phone"], found["nerava_stage"]) == ("new@example.com", "+492", "redeeming")
    assert found["nerava_balance"] == "2"


def test_retry_waits_for_a_worker_that_can_read_what_is_newer_and_says_so(hubspot: HubSpot) -> None:
    old = fail(hubspot)
    (newer,) = store_delivered(hubspot, '{"user_id": "driver-1"}', event_type=OF_A_NEWER_RELEASE)
    with hubspot.engine.begin() as connection:
        workers.note_alive(connection, OUTBOX, "of the newer release", [*CATALOG.types, OF_A_NEWER_RELEASE])
    retry(hubspot, old)
    row = hubspot.row(old)
    assert (row.processed_at, row.failed_at, row.attempt_count) == (None, None, 0)
    assert f"waits for a worker that can read the newer {OF_A_NEWER_RELEASE} event {newer}" == row.last_error
    assert hubspot.contact("driver-1") is None


def test_retry_behind_an_event_that_no_worker_knows_any_more_fails_and_names_what_a_person_can_do(
    hubspot: HubSpot,
) -> None:
    old = fail(hubspot)
    (newer,) = store_delivered(hubspot, '{"user_id": "driver-1"}', event_type=OF_A_NEWER_RELEASE)
    with hubspot.engine.begin() as connection:
        workers.note_alive(connection, OUTBOX, "long ago", [OF_A_NEWER_RELEASE])
        connection.execute(update(OUTBOX.workers).values(seen_at=DatabaseNow(-REMEMBERED_FOR.total_seconds() - 1)))
    retry(hubspot, old)
    row = hubspot.row(old)
    assert row.failed_at is not None
    assert str(newer) in row.last_error
    assert "retry --cautious" in row.last_error
    assert "discard" in row.last_error


def test_cautious_retry_leaves_alone_what_an_unreadable_event_may_have_set(hubspot: HubSpot) -> None:
    old = fail(hubspot)
    hubspot.earn("driver-1", 2, email="new@example.com", phone="+492", stage="redeeming")
    hubspot.deliver()
    newest = json.dumps({"user_id": "driver-1", **EARNED, "new_balance": 3})
    store_delivered(hubspot, "no JSON", newest)
    retry(hubspot, old)
    assert hubspot.row(old).failed_at is not None
    retry(hubspot, old, is_cautious=True)
    assert hubspot.is_delivered(old)
    found = contact(hubspot)
    assert (found["email"], found["phone"], found["nerava_stage"]) == ("new@example.com", "+492", "redeeming")
    # What is newer than the unreadable one is known to stand.
    assert found["nerava_balance"] == "3"


@pytest.mark.usefixtures("terminal", "live")
def test_person_retries_cautiously_from_a_terminal(hubspot: HubSpot) -> None:
    old = fail(hubspot)
    store_delivered(hubspot, "no JSON")
    result = CliRunner().invoke(cli, ["retry", "--cautious", str(old)])
    assert result.exit_code == 0, result.output
    assert hubspot.row(old).is_cautious is True
    result = CliRunner().invoke(cli, ["show", str(old), "--json"])
    (request,) = json.loads(result.output)["request_now"]["inputs"]
    assert request["properties"] == {"nerava_user_id": "driver-1"}


def test_unreadable_event_that_something_newer_covers_keeps_nobody_waiting(hubspot: HubSpot) -> None:
    old = fail(hubspot)
    store_delivered(hubspot, "no JSON")
    hubspot.earn("driver-1", 2, email="new@example.com", phone="+492", stage="redeeming")
    hubspot.deliver()
    retry(hubspot, old)
    assert hubspot.is_delivered(old)
    assert contact(hubspot)["email"] == "new@example.com"


def test_newer_event_whose_personal_values_were_dropped_counts_as_having_set_them(hubspot: HubSpot) -> None:
    old = fail(hubspot)
    newer = hubspot.earn("driver-1", 2, email="new@example.com", phone="+492")
    hubspot.deliver()
    c = OUTBOX.events.c
    with hubspot.engine.begin() as connection:
        payload = json.loads(connection.execute(select(c.payload).where(c.event_id == newer)).scalar_one())
        kept = {name: value for name, value in payload.items() if name not in ("email", "phone")}
        dropped = json.dumps({**kept, DROPPED: ["email", "phone"]})
        connection.execute(update(OUTBOX.events).where(c.event_id == newer).values(payload=dropped))
    retry(hubspot, old)
    assert hubspot.is_delivered(old)
    found = contact(hubspot)
    assert (found["email"], found["phone"], found["nerava_stage"]) == ("new@example.com", "+492", "signed_up")


def test_crash_between_an_answer_and_its_settle_sends_the_whole_run_again_by_itself(hubspot: HubSpot) -> None:
    first = hubspot.earn("driver-1", 1, email="old@example.com", phone="+491")
    second = hubspot.earn("driver-1", 2, email="new@example.com", phone="+492", stage="redeeming")
    other = hubspot.earn("driver-2", 7)
    hubspot.deliver_one_claim(is_settled=False)
    assert [hubspot.row(it).attempt_count for it in (first, second, other)] == [1, 0, 1]
    hubspot.deliver_one_claim()
    assert [hubspot.is_delivered(it) for it in (first, second, other)] == [True, True, False]
    found = contact(hubspot)
    assert (found["email"], found["phone"], found["nerava_balance"]) == ("new@example.com", "+492", "2")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_gate_that_shuts_after_a_crash_leaves_the_contact_as_it_was(hubspot: HubSpot, batch_size: int) -> None:
    """Also where the worker that comes after takes fewer events at once."""
    for n in range(3):
        hubspot.earn("driver-1", n, email=f"driver-{n}@example.com")
    hubspot.deliver_one_claim(is_settled=False)
    hubspot.deliver_one_claim(batch_size)
    assert (contact(hubspot)["email"], contact(hubspot)["nerava_balance"]) == ("driver-2@example.com", "2")
    hubspot.deliver()
    assert (contact(hubspot)["email"], contact(hubspot)["nerava_balance"]) == ("driver-2@example.com", "2")


def test_event_that_goes_alone_after_a_second_crash_says_nothing_that_a_later_one_says(hubspot: HubSpot) -> None:
    first = hubspot.earn("driver-1", 1, email="old@example.com", phone="+491", stage="earning")
    redeemed = {"amount": 1, "merchant_id": "m-1", "redemption_id": "r-1", "redeemed_at": "2026-11-24T20:00:00Z"}
    later = hubspot.track("nova_redeemed", {"user_id": "driver-1", "email": "new@example.com", **redeemed})
    for _ in range(2):
        hubspot.deliver_one_claim(is_settled=False)
    # A person undoes in HubSpot what the event alone would set: it is set again, the rest is not.
    for name in ("email", "phone", "nerava_stage"):
        write(hubspot, **{name: ""})
    hubspot.deliver_one_claim()
    assert [hubspot.is_delivered(it) for it in (first, later)] == [True, False]
    assert "email" not in contact(hubspot)
    assert (contact(hubspot)["phone"], contact(hubspot)["nerava_stage"]) == ("+491", "earning")
    hubspot.deliver()
    assert contact(hubspot)["email"] == "new@example.com"


def test_lost_answer_is_not_undone_by_a_smaller_claim(hubspot: HubSpot) -> None:
    hubspot.earn("driver-1", 1, email="old@example.com")
    hubspot.earn("driver-1", 2, email="new@example.com")
    hubspot.sandbox.faults.add("reset_after_applying", requests=1, path="/batch/upsert")
    hubspot.deliver_one_claim()
    assert contact(hubspot)["email"] == "new@example.com"
    hubspot.deliver_one_claim(1)
    assert (contact(hubspot)["email"], contact(hubspot)["nerava_balance"]) == ("new@example.com", "2")


def test_events_that_a_worker_had_in_hand_when_it_was_stopped_are_not_undone(hubspot: HubSpot) -> None:
    hubspot.earn("driver-1", 1, email="old@example.com")
    hubspot.earn("driver-1", 2, email="new@example.com")
    hubspot.deliver_one_claim(is_settled=False)
    token, _ = hubspot.queue.claim()
    hubspot.queue.hand_back(token)
    hubspot.deliver_one_claim(1)
    assert contact(hubspot)["email"] == "new@example.com"


def write(hubspot: HubSpot, **properties: str) -> None:
    """What a person does in HubSpot to the driver's contact."""
    found = hubspot.sandbox.contact(nerava_user_id="driver-1")
    assert found is not None
    answer = httpx2.patch(
        f"{hubspot.sandbox.url}/crm/objects/2026-09/contacts/{found['id']}",
        json={"properties": properties},
        headers={"Authorization": "Bearer pat-na1-0"},
    )
    assert answer.status_code == 200, answer.text
