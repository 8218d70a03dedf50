"""A hold is logged once per reason, and lifted by a delivery that got through and by nothing else."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta

import pytest

from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sync.provisioning import carry_out, plan_provisioning
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import GateState
from tests.hubspot.conftest import HubSpot, settings_for

LONG = timedelta(minutes=10)


def gate_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [it.getMessage() for it in caplog.records if it.name == "sqlalchemy_outbox.gate.gate"]


def test_schema_hold_that_is_probed_in_vain_is_neither_lifted_nor_logged_again(
    bare_hubspot: HubSpot, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events = [bare_hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(60)]
    for _ in range(5):
        bare_hubspot.deliver()
        bare_hubspot.queue.pass_time(LONG)
    [line] = gate_lines(caplog)
    assert line.startswith("Deliveries are held: the account's property nerava_user_id is missing")
    bare_hubspot.provision()
    bare_hubspot.deliver()
    assert all(bare_hubspot.is_delivered(it) for it in events)
    assert gate_lines(caplog)[1:] == ["Deliveries go on."]


def test_hold_of_another_reason_is_logged_anew(hubspot: HubSpot, caplog: pytest.LogCaptureFixture) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    for kind in ("revoked", "missing_scopes", "missing_scopes"):
        hubspot.sandbox.faults.clear()
        hubspot.sandbox.faults.add(kind)
        hubspot.deliver()
        hubspot.queue.pass_time(LONG)
    assert [it.partition(":")[0] for it in gate_lines(caplog)] == ["Deliveries are held"] * 2
    assert "401" in gate_lines(caplog)[0]
    assert "crm.objects.contacts.write" in gate_lines(caplog)[1]


async def test_wrong_token_is_found_out_at_start_and_not_with_the_first_event(hubspot: HubSpot) -> None:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_portal_id="999")
    async with hubspot.integration.worker(), asyncio.timeout(10):
        while hubspot.gate().state is not GateState.HELD:
            await asyncio.to_thread(lambda: None)
    assert "999" in (hubspot.gate().reason or "")


def test_every_request_of_provisioning_takes_its_slot(bare_hubspot: HubSpot) -> None:
    rate = 40

    async def provision() -> None:
        gate = Gate(OUTBOX, bare_hubspot.engine, rate)
        await gate.prepare()
        async with bare_hubspot.integration.client() as client:
            plan = await plan_provisioning(client, gate, CATALOG)
            async for _ in carry_out(plan, client, gate, CATALOG):
                pass

    began = time.monotonic()
    asyncio.run(provision())
    requests = len(bare_hubspot.sandbox.requests())
    assert requests > len(CATALOG.properties) - 2
    assert time.monotonic() - began >= (requests - 1) / rate * 0.98
