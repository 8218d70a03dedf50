"""One subject's contact: what its delivered events last said, what HubSpot has now, and where the two differ."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any
from uuid import UUID

from hubspot_sync.answer import Answer, ContactResult
from hubspot_sync.client import HubSpotClient
from hubspot_sync.errors import NoAnswer
from hubspot_sync.event import Catalog, ContactProperty, PropertyType, UnreadableEvent
from hubspot_sync.integration import Integration
from hubspot_sync.limits import call_in_control_slot
from hubspot_sync.moves import said_by
from hubspot_sync.redaction import PERSONAL
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.gate.gate import Gate, GateShut
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.operating.search import delivered_of
from sqlalchemy_outbox.operations import EventSummary
from sqlalchemy_outbox.payload import storable

# A person reads the last ones.
EVENTS_MAX = 100
_NOT_FOUND = "OBJECT_NOT_FOUND"
# What HubSpot's own pages call a contact. Nothing of ours sets it.
_NAMES = ("firstname", "lastname")
# HubSpot writes phone numbers in its own way, so only their digits are compared.
_PHONE = "phone"
_NO_DIGIT = re.compile(r"\D")


class Presence(StrEnum):
    FOUND = "found"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HubSpotContact:
    """What HubSpot says: `found_by` names the property that led to the contact, `reason` says why nothing is known.

    `name` is the person's, as HubSpot has it; empty when it has none.
    """

    presence: Presence
    record_id: str | None = None
    found_by: str | None = None
    reason: str = ""
    name: str = field(default="", repr=False)
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)

    def redacted(self) -> HubSpotContact:
        return replace(self, name=self.name and PERSONAL)


@dataclass(frozen=True, slots=True)
class Value:
    """One property: what was last sent, by which event, and what HubSpot has. None: never sent, or empty there."""

    property: ContactProperty
    sent: str | None = field(default=None, repr=False)
    sent_by: UUID | None = None
    found: str | None = field(default=None, repr=False)
    differs: bool = False

    def redacted(self) -> Value:
        if not self.property.is_personal:
            return self
        return replace(self, sent=self.sent and PERSONAL, found=self.found and PERSONAL)

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.property.name,
            "sent": self.sent,
            "sent_by": None if self.sent_by is None else str(self.sent_by),
            "found": self.found,
            "differs": self.differs,
        }


@dataclass(frozen=True, slots=True)
class ContactView:
    """A subject's contact, property by property in the catalog's order, and its newest events, in order.

    What was sent is known from the delivered events that are still kept. Values are a person's: show `redacted()`
    unless they are to be revealed.
    """

    subject: str
    events: list[EventSummary]
    contact: HubSpotContact
    values: list[Value]

    @property
    def differences(self) -> list[Value]:
        return [value for value in self.values if value.differs]

    def redacted(self) -> ContactView:
        return replace(self, contact=self.contact.redacted(), values=[value.redacted() for value in self.values])

    def as_json(self) -> dict[str, Any]:
        contact = self.contact
        return {
            "subject": self.subject,
            "hubspot": {
                "presence": contact.presence.value,
                "record_id": contact.record_id,
                "found_by": contact.found_by,
                "reason": contact.reason,
                "name": contact.name,
            },
            "properties": [value.as_json() for value in self.values],
            "events": [event.as_json() for event in self.events],
        }


async def look_at_contact(integration: Integration, subject: str) -> ContactView:
    """Read both ends. HubSpot is asked by our id, then by the email that was last sent; each question takes a slot.

    That HubSpot cannot be asked, or gives no answer, is a finding like another.
    """
    events = await asyncio.to_thread(
        operations.events_of, integration.engine, integration.outbox, subject, limit=EVENTS_MAX
    )
    delivered = await asyncio.to_thread(_read_delivered, integration, subject)
    sent = _last_sent(delivered, integration.catalog)
    contact = await _ask(integration, subject, sent)
    return ContactView(subject, events, contact, list(_compare(integration.catalog, sent, contact)))


def _read_delivered(integration: Integration, subject: str) -> list[Event]:
    with integration.engine.connect() as connection:
        return delivered_of(connection, integration.outbox, subject)


def _last_sent(events: Iterable[Event], catalog: Catalog) -> dict[str, tuple[str, UUID]]:
    """Each property's value as the newest event that set it said, and that event."""
    sent: dict[str, tuple[str, UUID]] = {}
    for event in events:
        try:
            properties = said_by(event, catalog)
        except UnreadableEvent:
            # Delivered by a release that could read it; this one cannot say what was sent.
            continue
        for name, value in properties.items():
            if value is None:
                # Taken away, or dropped from what is kept.
                sent.pop(name, None)
            else:
                sent[name] = (value, event.event_id)
    return sent


async def _ask(integration: Integration, subject: str, sent: Mapping[str, tuple[str, UUID]]) -> HubSpotContact:
    if not integration.settings.hubspot_private_app_token.get_secret_value():
        return HubSpotContact(Presence.UNKNOWN, reason="HUBSPOT_PRIVATE_APP_TOKEN is empty; set it to ask HubSpot.")
    catalog, gate = integration.catalog, integration.gate()
    keys = {catalog.key.name: subject}
    if catalog.email.name in sent:
        keys[catalog.email.name] = sent[catalog.email.name][0]
    contact = HubSpotContact(Presence.MISSING)
    await gate.prepare()
    async with integration.client() as client:
        for key_property, key in keys.items():
            contact = await _read(client, gate, catalog, key_property, key)
            if contact.presence is not Presence.MISSING:
                break
    return contact


async def _read(client: HubSpotClient, gate: Gate, catalog: Catalog, key_property: str, key: str) -> HubSpotContact:
    names = [*(property_.name for property_ in catalog.properties), *_NAMES]
    try:
        answer = await call_in_control_slot(gate, lambda: client.read_contacts(key_property, [key], names))
    except (NoAnswer, GateShut) as error:
        return HubSpotContact(Presence.UNKNOWN, reason=str(error))
    batch = answer.batch() if answer.is_success else None
    if batch is not None and batch.results:
        return _found(answer, batch.results[0], key_property)
    if batch is not None and any(row.error.raw_category == _NOT_FOUND for row in batch.errors):
        return HubSpotContact(Presence.MISSING)
    return HubSpotContact(Presence.UNKNOWN, reason=_unexpected(answer))


def _found(answer: Answer, result: ContactResult, key_property: str) -> HubSpotContact:
    # HubSpot shows an empty property as null or as an empty text.
    properties = {
        name: storable(str(value))
        for name, value in result.properties.items()
        if isinstance(value, str | int | float) and value != ""
    }
    name = " ".join(properties[name] for name in _NAMES if name in properties)
    return HubSpotContact(Presence.FOUND, answer.shown(result.raw_id), key_property, name=name, properties=properties)


def _unexpected(answer: Answer) -> str:
    return "HubSpot's answer names no contact and no error" if answer.is_success else answer.summary()


def _compare(catalog: Catalog, sent: Mapping[str, tuple[str, UUID]], contact: HubSpotContact) -> Iterable[Value]:
    for property_ in catalog.properties:
        value, event_id = sent.get(property_.name, (None, None))
        found = contact.properties.get(property_.name)
        is_known = contact.presence is not Presence.UNKNOWN and value is not None
        differs = is_known and _comparable(property_, value) != _comparable(property_, found)
        yield Value(property_, value, event_id, found, differs)


def _comparable(property_: ContactProperty, text: str | None) -> object:
    """The value without what HubSpot may write in another way."""
    if text is None:
        return None
    try:
        match property_.type:
            case PropertyType.NUMBER:
                number = Decimal(text)
                # What is none is compared as a text: a signalling NaN cannot be compared at all.
                return number if number.is_finite() else text
            case PropertyType.DATETIME:
                return datetime.fromisoformat(text)
            case _ if property_.name == _PHONE:
                return _NO_DIGIT.sub("", text)
            case _:
                return text.strip().lower() if property_.is_standard else text.strip()
    except (ValueError, InvalidOperation):
        return text
