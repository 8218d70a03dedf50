"""Who is forgotten, and what of it an operator may know. What becomes of the contact is in `erasure`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy.orm import Session

from hubspot_sync.errors import ErasureKeyMissing
from hubspot_sync.event import Catalog, UnreadableEvent
from hubspot_sync.moves import said_by
from hubspot_sync.redaction import texts_of
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.enqueueing import forgetting
from sqlalchemy_outbox.enqueueing.enqueue import AnySession
from sqlalchemy_outbox.enqueueing.forgetting import ErasureWay as ErasureWay
from sqlalchemy_outbox.enqueueing.forgetting import KeyMissing
from sqlalchemy_outbox.erasure.certificates import Certificate
from sqlalchemy_outbox.erasure.erasures import WORDS, Facts
from sqlalchemy_outbox.model import Event, Outbox
from sqlalchemy_outbox.operating import audit
from sqlalchemy_outbox.operating.audit import Action

if TYPE_CHECKING:
    from hubspot_sync.integration import Integration

# Of what is remembered: the subject's addresses, each with the id of the last event that gave it to the subject.
ADDRESSES = "addresses"
WAY = "way"


def payload_of(subject: str, catalog: Catalog, way: ErasureWay) -> dict[str, object]:
    """What an erasure's event says at first."""
    return {catalog.subject_field: subject, WAY: way.value}


def remember(catalog: Catalog, facts: Facts, events: Sequence[Event]) -> Facts:
    """What is to be known of these events once they are gone: the subject's addresses, and how late it had them."""
    addresses: dict[str, int] = dict(fact(facts, ADDRESSES, dict))
    words = set(fact(facts, WORDS, list))
    for event in events:
        words |= texts_of(event.payload, catalog.personal_names)
        try:
            said = said_by(event, catalog)
        except UnreadableEvent:
            continue
        if event.event_type in catalog.types and (address := said.get(catalog.email.name)):
            addresses[address] = max(event.id, addresses.get(address, 0))
    return {**facts, ADDRESSES: addresses, WORDS: sorted(words)}


def forget(
    db: AnySession, outbox: Outbox, catalog: Catalog, subject: str, *, reason: str, way: ErasureWay = ErasureWay.ERASE
) -> UUID:
    """Forget the subject if and only if the caller's transaction commits; returns the id of the event that erases it.

    Takes what a Tracker takes, and needs no await. From the commit on, events of the subject are stored as refusals
    without personal data, and a worker erases its contact. `reason` is kept for good, so let it name nobody. Unlike a
    Tracker it raises, and the transaction fails with it: ErasureKeyMissing unless an Integration was made in this
    process, with HUBSPOT_ERASURE_KEY; ValueError for what is no subject or no reason; TypeError where the transaction
    could not share its fate.
    """
    name = subject_of(subject, catalog)
    try:
        return forgetting.forget(db, outbox, name, payload_of(name, catalog, way), reason=reason, way=way)
    except KeyMissing:
        raise ErasureKeyMissing from None


def forget_by_hand(integration: Integration, subject: str, *, reason: str, way: ErasureWay, by: str) -> UUID:
    """Forget the subject in a transaction of its own; the audit says who did it, and names the subject by its name."""
    outbox = integration.outbox
    with Session(integration.engine) as db, db.begin():
        event_id = forget(db, outbox, integration.catalog, subject, reason=reason, way=way)
        name = outbox.names.of(subject_of(subject, integration.catalog))
        detail = {"name": name, "way": way.value, "event_ids": [str(event_id)]}
        audit.record(db.connection(), outbox, Action.FORGET, by=by, reason=reason, count=1, detail=detail)
    return event_id


def certificates_of(integration: Integration, subject: str) -> list[Certificate]:
    """Of all times that the subject was forgotten, newest first. Raises ErasureKeyMissing."""
    name = integration.outbox.names.of(subject_of(subject, integration.catalog))
    if name is None:
        raise ErasureKeyMissing
    return operations.read_certificates(integration.engine, integration.outbox, name)


def subject_of(subject: str, catalog: Catalog) -> str:
    """As its events name it."""
    return catalog.subject_of({catalog.subject_field: subject}) or ""


def fact(facts: Facts, name: str, type_: type[Any]) -> Any:
    """What is remembered under this name; empty where it is none of this type."""
    value = facts.get(name)
    return value if isinstance(value, type_) else type_()
