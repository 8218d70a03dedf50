"""Delivered events lose what names a person before they are purged, and no contact goes backwards of it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import OUTBOX
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.erasure.personal_data import Stripping
from sqlalchemy_outbox.operating.selection import EventFilter
from tests.hubspot.conftest import LONG, HubSpot, settings_for

ADDRESS = "ada@example.com"


@pytest.fixture
def hub(hubspot: HubSpot) -> HubSpot:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_personal_data_days=7)
    return hubspot


def strip(hub: HubSpot) -> int:
    """As an idle worker does."""
    stripping = hub.integration._stripping()
    assert isinstance(stripping, Stripping)
    count = 0
    while not stripping.is_over:
        with hub.engine.begin() as connection:
            count += stripping.step(connection)
    return count


def payloads(hub: HubSpot) -> list[dict[str, object]]:
    c = OUTBOX.events.c
    with Session(hub.engine) as db:
        return [json.loads(payload) for payload in db.execute(select(c.payload).order_by(c.id)).scalars()]


def test_delivered_events_lose_addresses_after_their_days_and_keep_what_they_set(hub: HubSpot) -> None:
    hub.sign_up("ada", email=ADDRESS, phone="+49301234567")
    hub.deliver()
    assert strip(hub) == 0
    hub.queue.pass_time(timedelta(days=8))
    hub.sign_up("eve", email="eve@example.com")
    hub.deliver()
    assert (strip(hub), strip(hub)) == (1, 0)
    ada, eve = payloads(hub)
    assert (ada["_dropped"], "email" in ada, "phone" in ada) == (["email", "phone"], False, False)
    assert eve["email"] == "eve@example.com"


@pytest.mark.parametrize("newer", ["of the driver's own", "a move of the address"])
def test_retried_event_leaves_alone_what_a_stripped_newer_one_has_set(hub: HubSpot, newer: str) -> None:
    hub.sign_up("ada", email="old@example.com")
    hub.sandbox.faults.add("input_refused", contact="old@example.com", requests=1)
    hub.deliver()
    if newer == "a move of the address":
        hub.sign_up("eve", email=ADDRESS)
        hub.deliver()
    hub.earn("ada", 5, email=ADDRESS)
    hub.deliver()
    hub.queue.pass_time(timedelta(days=8))
    assert strip(hub) >= 1
    [*_] = operations.retry(hub.engine, OUTBOX, EventFilter(), hub.integration.types, by="test")
    hub.queue.pass_time(LONG)
    hub.deliver()
    contact = hub.contact("ada")
    assert contact is not None
    assert (contact["email"], contact["nerava_auth_provider"]) == (ADDRESS, "otp")
