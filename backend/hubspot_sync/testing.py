"""For your application's own tests: what HubSpot would get for an event, and the whole lane to a HubSpot sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import SecretStr
from sqlalchemy import Engine

from hubspot_sync.event import Catalog
from hubspot_sync.integration import Integration
from hubspot_sync.provisioning import carry_out, plan_provisioning
from hubspot_sync.runtime import deliver_due
from hubspot_sync.settings import HubSpotSettings
from hubspot_sync.translation import translate
from sqlalchemy_outbox.model import Event, Outbox
from sqlalchemy_outbox.outcome import Rejected
from sqlalchemy_outbox.payload import encode_payload
from sqlalchemy_outbox.testing import Enqueued

# As the sandbox has it.
_PORTAL_ID = "12345678"
# Tests do not wait for the rate.
_REQUESTS_PER_SECOND = 100.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One contact's upsert: found by `key_property`, or created, and given `properties`, all as texts.

    HubSpot finds the contact by its email instead where it knows the address and not the key.
    """

    key_property: str
    key: str
    properties: Mapping[str, str]


def sent_to_hubspot(catalog: Catalog, *events: Enqueued | tuple[str, Mapping[str, object]]) -> list[Sent]:
    """What a worker would send for these events, each the type and the payload: one upsert a subject, in order.

    `enqueued(engine, outbox)` gives what was stored: `sent_to_hubspot(CATALOG, *enqueued(engine, OUTBOX))`. Fails the
    test for an event that could never be delivered, and says why.
    """
    translation = translate([_as_event(number, event, catalog) for number, event in enumerate(events)], catalog)
    objections = [rejected.error for rejected in translation.not_sent.values() if isinstance(rejected, Rejected)]
    assert not objections, "; ".join(objections)
    return [Sent(upsert.key_property, upsert.key, dict(upsert.properties)) for upsert in translation.upserts]


def deliver_to(url: str, engine: Engine, outbox: Outbox, catalog: Catalog) -> None:
    """Provision the account at `url`, a sandbox's, and deliver what is due; raise GateShut where it lets nothing pass.

    Whatever the environment says, nothing goes anywhere else. An async test calls it by `asyncio.to_thread`.
    """
    settings = HubSpotSettings(
        hubspot_enabled=True,
        hubspot_send_live=True,
        hubspot_private_app_token=SecretStr("any"),
        hubspot_portal_id=_PORTAL_ID,
        hubspot_base_url=url,
        hubspot_requests_per_second=_REQUESTS_PER_SECOND,
    )
    asyncio.run(_provision_and_deliver(Integration(settings, outbox, catalog, engine)))


async def _provision_and_deliver(integration: Integration) -> None:
    gate = integration.gate()
    await gate.prepare()
    async with integration.client() as client:
        plan = await plan_provisioning(client, gate, integration.catalog)
        async for _ in carry_out(plan, client, gate, integration.catalog):
            pass
    await deliver_due(integration)


def _as_event(number: int, event: Enqueued | tuple[str, Mapping[str, object]], catalog: Catalog) -> Event:
    event_type, payload = event if isinstance(event, tuple) else (event.event_type, event.payload)
    event_id, now = uuid4(), datetime.now(UTC)
    subject = catalog.subject_of(payload) or str(event_id)
    text, objection = encode_payload(payload)
    assert objection is None, objection
    return Event(number, event_id, event_type, subject, text, now, 0, None, None, None)
