"""Provisioning creates what the events need, once, and leaves what a person made."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sync.provisioning import Plan, plan_provisioning
from sqlalchemy_outbox.gate.gate import Gate
from tests.hubspot.conftest import HubSpot

HEADERS = {"Authorization": "Bearer pat-na1-0"}
PROPERTIES = "/crm/properties/2026-09/contacts"


def plan_of(hubspot: HubSpot) -> Plan:
    async def plan() -> Plan:
        gate = Gate(OUTBOX, hubspot.engine, 100)
        await gate.prepare()
        async with hubspot.integration.client() as client:
            return await plan_provisioning(client, gate, CATALOG)

    return asyncio.run(plan())


def create(hubspot: HubSpot, **definition: object) -> None:
    answer = httpx2.post(f"{hubspot.sandbox.url}{PROPERTIES}", json=definition, headers=HEADERS)
    assert answer.status_code == 201, answer.text


def test_plan_of_a_fresh_account_names_all_that_is_missing(bare_hubspot: HubSpot) -> None:
    plan = plan_of(bare_hubspot)
    assert plan.group == CATALOG.group
    assert {it.name for it in plan.properties} == {it.name for it in CATALOG.properties if not it.is_standard}
    assert plan_of(bare_hubspot) == plan


def test_after_provisioning_nothing_is_left_to_do(hubspot: HubSpot) -> None:
    assert plan_of(hubspot) == Plan()
    hubspot.provision()
    assert plan_of(hubspot).lines() == ["nothing to do: group and properties are as declared"]


def test_missing_options_are_added_and_a_persons_own_stay(bare_hubspot: HubSpot) -> None:
    create(
        bare_hubspot,
        name="nerava_stage",
        label="My stage",
        type="enumeration",
        fieldType="select",
        groupName="contactinformation",
        options=[{"label": "Mine", "value": "mine", "displayOrder": 0, "hidden": False}],
    )
    bare_hubspot.provision()
    answer = httpx2.get(f"{bare_hubspot.sandbox.url}{PROPERTIES}/nerava_stage", headers=HEADERS).json()
    assert [it["value"] for it in answer["options"]] == ["mine", "signed_up", "pass_installed", "earning", "redeeming"]
    assert answer["label"] == "My stage"


@pytest.mark.parametrize(
    ("definition", "complaint"),
    [
        ({"name": "nerava_user_id", "type": "string", "fieldType": "text"}, "nerava_user_id is not unique"),
        ({"name": "nerava_balance", "type": "string", "fieldType": "text"}, "nerava_balance is of type string"),
    ],
)
def test_what_provisioning_may_not_mend_it_explains(
    bare_hubspot: HubSpot, definition: dict[str, object], complaint: str
) -> None:
    create(bare_hubspot, label="Mine", groupName="contactinformation", **definition)
    bare_hubspot.provision()
    plan = plan_of(bare_hubspot)
    assert len(plan.differences) == 1
    assert complaint in plan.differences[0]
