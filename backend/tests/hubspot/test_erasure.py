"""A driver who is forgotten is erased at HubSpot, once and for good, and nobody else with her."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Row, select, update
from sqlalchemy.orm import Session

from app.models import OUTBOX
from app.services.hubspot import forget
from hubspot_sandbox import Sandbox
from hubspot_sandbox.faults import FaultKind
from hubspot_sync.errors import ErasureKeyMissing
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.enqueueing.forgetting import ErasureWay
from sqlalchemy_outbox.model import State
from sqlalchemy_outbox.operating.selection import EventFilter
from tests.hubspot.conftest import LONG, HubSpot, settings_for

KEY = "e" * 32
ADA, EVE = "ada-4711", "eve-4712"
ADDRESS = "ada.4711@example.com"


@pytest.fixture
def hub(hubspot: HubSpot) -> HubSpot:
    """The key is this process's from the first integration on."""
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_erasure_key=KEY)
    assert hubspot.integration
    return hubspot


def forget_ada(hub: HubSpot, way: ErasureWay = ErasureWay.ERASE) -> None:
    with Session(hub.engine) as db, db.begin():
        forget(db, ADA, reason="she asked for it", way=way)


def deliver(hub: HubSpot) -> None:
    """Until also the last look has come."""
    for _ in range(2):
        with hub.engine.begin() as connection:
            connection.execute(update(OUTBOX.erasures).values(look_at=OUTBOX.erasures.c.forgotten_at))
        hub.queue.pass_time(LONG)
        hub.deliver()


def erasure(hub: HubSpot) -> Row[Any]:
    with hub.engine.connect() as connection:
        return connection.execute(select(OUTBOX.erasures)).one()


def told(hub: HubSpot) -> dict[str, Any]:
    row = erasure(hub)
    assert row.cleaned_at is not None
    found: dict[str, Any] = json.loads(row.told)
    return found


def record_id(hub: HubSpot, driver: str) -> str:
    found = hub.sandbox.contact(nerava_user_id=driver)
    assert found is not None
    return str(found["id"])


def create(sandbox: Sandbox, **properties: str) -> str:
    made = sandbox.run(lambda account: account.contacts.create(properties, account.clock()))
    return str(made.id)


def is_blocked(hub: HubSpot, address: str) -> bool:
    """Whether HubSpot takes the address no more."""
    hub.sign_up("somebody", email=address)
    hub.deliver()
    somebody = hub.contact("somebody")
    assert somebody is not None
    return "email" not in somebody


def test_forgotten_driver_is_erased_by_record_id_and_nothing_of_her_is_sent_any_more(hub: HubSpot) -> None:
    hub.sign_up(ADA, email=ADDRESS, phone="+49 30 1234567")
    hub.sign_up(EVE, email="eve@example.com")
    hub.deliver()
    record = record_id(hub, ADA)
    hub.earn(ADA, 5)
    forget_ada(hub)
    hub.earn(ADA, 6)
    deliver(hub)
    assert hub.sandbox.contact(record_id=record) is None
    assert hub.contact(EVE) is not None
    erasing = [it for it in hub.sandbox.requests() if it["path"].endswith("/gdpr-delete")]
    assert len(erasing) == 1
    assert len(hub.upserts()) == 1
    [request] = told(hub)["requests"]
    assert (told(hub)["contacts"], told(hub)["left"], request["status"]) == (1, 0, 204)
    assert request["correlation_id"]
    assert is_blocked(hub, ADDRESS)


@pytest.mark.parametrize("erased_record", ["missing", "emptied"])
def test_archived_contact_is_erased_however_its_record_reads_afterwards(hub: HubSpot, erased_record: str) -> None:
    hub.sandbox.switch(erased_record=erased_record)
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    contacts = hub.sandbox.run(lambda account: account.contacts)
    hub.sandbox.run(lambda account: contacts.archive(contacts.find("nerava_user_id", ADA), account.clock()))
    forget_ada(hub)
    deliver(hub)
    assert told(hub)["contacts"] == 1
    assert is_blocked(hub, ADDRESS)


def test_driver_without_a_contact_is_forgotten_and_her_address_stays_free(hub: HubSpot) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    forget_ada(hub)
    deliver(hub)
    assert (told(hub)["contacts"], hub.upserts()) == (0, [])
    assert not is_blocked(hub, ADDRESS)


def test_contact_of_nobody_that_has_her_address_is_hers(hub: HubSpot) -> None:
    marketers = create(hub.sandbox, email=ADDRESS)
    hub.sign_up(ADA, email=ADDRESS)
    forget_ada(hub)
    deliver(hub)
    assert told(hub)["contacts"] == 1
    assert hub.sandbox.contact(record_id=marketers) is None


def test_contact_that_lost_our_id_is_found_by_its_record(hub: HubSpot) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    record = record_id(hub, ADA)
    again = create(hub.sandbox, email="other@example.com")
    hub.sandbox.run(lambda a: a.contacts.update(a.contacts.find(None, record), {"nerava_user_id": ""}, a.clock()))
    hub.sandbox.run(lambda a: a.contacts.update(a.contacts.find(None, again), {"nerava_user_id": ADA}, a.clock()))
    forget_ada(hub)
    deliver(hub)
    assert told(hub)["contacts"] == 2
    assert hub.sandbox.contact(record_id=record) is hub.sandbox.contact(record_id=again) is None


@pytest.mark.parametrize("merged_away_records", ["missing", "redirected"])
def test_contact_that_was_merged_into_another_drivers_stays_his(hub: HubSpot, merged_away_records: str) -> None:
    hub.sandbox.switch(merged_away_records=merged_away_records)
    hub.sign_up(ADA, email=ADDRESS)
    hub.sign_up(EVE, email="eve@example.com")
    hub.deliver()
    hub.sandbox.run(
        lambda a: a.contacts.merge(
            a.contacts.find("nerava_user_id", EVE), a.contacts.find("nerava_user_id", ADA), a.clock()
        )
    )
    forget_ada(hub)
    deliver(hub)
    assert hub.contact(EVE) is not None
    assert (told(hub)["contacts"], told(hub)["left"]) == (0, 1)


@pytest.mark.parametrize("moment", ["moved", "moving"])
def test_address_that_another_driver_has_now_stays_his_and_so_does_his_contact(hub: HubSpot, moment: str) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    record = record_id(hub, ADA)
    hub.sign_up(EVE, email=ADDRESS)
    if moment == "moved":
        hub.deliver()
    forget_ada(hub)
    deliver(hub)
    assert told(hub)["contacts"] == 1
    assert hub.sandbox.contact(record_id=record) is None
    eve = hub.contact(EVE)
    assert eve is not None
    assert eve["email"] == ADDRESS
    hub.earn(EVE, 7, email=ADDRESS)
    hub.deliver()
    assert (hub.contact(EVE) or {})["nerava_balance"] == "7"


def test_address_that_hubspot_does_not_let_go_is_for_a_person(hub: HubSpot) -> None:
    hub.sandbox.switch(empty_email="refused")
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    hub.sign_up(EVE, email=ADDRESS)
    forget_ada(hub)
    deliver(hub)
    assert hub.contact(ADA) is not None
    [reason] = [it.newest.last_error for it in operations.failure_reasons(hub.engine, OUTBOX) if "since" in it.reason]
    assert EVE in str(reason)


def test_driver_who_signs_up_again_with_the_old_address_gets_a_contact_without_it(
    hub: HubSpot, caplog: pytest.LogCaptureFixture
) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    forget_ada(hub)
    deliver(hub)
    again = hub.sign_up("ada-again", email=ADDRESS)
    with hub.one_worker() as deliver_now:
        deliver_now()
        later = hub.earn("ada-again", 3, email=ADDRESS)
        deliver_now()
    assert hub.is_delivered(again)
    assert hub.is_delivered(later)
    contact = hub.contact("ada-again")
    assert contact is not None
    assert ("email" in contact, contact["nerava_balance"]) == (False, "3")
    said = [message for message in caplog.messages if "never taken again" in message]
    assert len(said) == 1
    assert ADDRESS not in caplog.text


def test_address_that_is_refused_for_good_costs_only_the_address_whatever_the_refusals_form(hub: HubSpot) -> None:
    body = json.dumps({"category": "VALIDATION_ERROR", "message": "GDPR blacklisted"})
    hub.sandbox.faults.add(FaultKind.CUSTOM, status=400, body=body, content_type="application/json", contact=ADDRESS)
    events = [hub.sign_up(ADA, email=ADDRESS), hub.earn(ADA, 5, email=ADDRESS), hub.sign_up(EVE, email="eve@x.example")]
    hub.deliver()
    assert all(map(hub.is_delivered, events))
    ada, eve = hub.contact(ADA), hub.contact(EVE)
    assert ada is not None
    assert eve is not None
    assert ("email" in ada, ada["nerava_balance"], eve["email"]) == (False, "5", "eve@x.example")


@pytest.mark.parametrize("answer", ["forbidden", "refused"])
def test_refusal_of_the_erasure_fails_it_alone_and_a_retry_does_it(hub: HubSpot, answer: str) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    forget_ada(hub)
    eve = hub.sign_up(EVE)
    hub.sandbox.switch(gdpr_delete=answer)
    deliver(hub)
    assert hub.is_delivered(eve)
    assert hub.gate().state == "open"
    [failed] = operations.find_events(hub.engine, OUTBOX, EventFilter(state=State.FAILED))
    assert "HubSpot does not erase the contact" in str(failed.last_error)
    hub.sandbox.switch(gdpr_delete="allowed")
    [*_] = operations.retry(hub.engine, OUTBOX, EventFilter(), hub.integration.types, by="test")
    deliver(hub)
    assert told(hub)["contacts"] == 1
    assert hub.contact(ADA) is None


def test_lost_answer_to_the_erasure_costs_no_attempt_and_is_repeated(hub: HubSpot) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    forget_ada(hub)
    hub.sandbox.faults.add(FaultKind.RESET_AFTER_APPLYING, path="/gdpr-delete", requests=1)
    deliver(hub)
    deliver(hub)
    assert (told(hub)["contacts"], told(hub)["repeated"]) == (0, True)
    assert hub.contact(ADA) is None
    [row] = [row for row, _ in hub.deliveries() if row.endpoint == "contacts/gdpr-delete"]
    assert (row.outcome, row.status) == ("no answer", None)


@pytest.mark.parametrize("kind", ["throttle", "locked", "bad_gateway", "reset"])
def test_trouble_of_the_day_costs_the_erasure_no_attempt(hub: HubSpot, kind: str) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    forget_ada(hub)
    hub.sandbox.faults.add(kind, path="/gdpr-delete", requests=1)
    hub.deliver()
    [event_id] = hub.event_ids()
    deliver(hub)
    assert hub.row(event_id).attempt_count == 0
    assert told(hub)["contacts"] == 1
    assert hub.contact(ADA) is None


def test_archive_leaves_the_address_free(hub: HubSpot) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    forget_ada(hub, ErasureWay.ARCHIVE)
    deliver(hub)
    assert (told(hub)["way"], told(hub)["contacts"]) == ("archive", 1)
    assert hub.contact(ADA) is None
    assert not is_blocked(hub, ADDRESS)


def test_dry_run_erases_nobody_and_the_erasure_waits(hub: HubSpot) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    forget_ada(hub)
    live, hub.settings = hub.settings, settings_for(hub.sandbox, hubspot_send_live=False, hubspot_erasure_key=KEY)
    hub.deliver()
    assert hub.contact(ADA) is not None
    hub.settings = live
    deliver(hub)
    assert hub.contact(ADA) is None


def test_nobody_is_forgotten_without_a_key(hubspot: HubSpot) -> None:
    assert hubspot.integration
    with Session(hubspot.engine) as db, pytest.raises(ErasureKeyMissing, match="HUBSPOT_ERASURE_KEY"):
        forget(db, ADA, reason="she asked for it")
