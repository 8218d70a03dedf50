"""`track_event`: what a driver did, told to HubSpot by way of the outbox. `forget`: a driver who is to be erased."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID, uuid4

from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sync import forgetting
from sqlalchemy_outbox import enqueue
from sqlalchemy_outbox.database.isolation import in_words
from sqlalchemy_outbox.enqueueing.enqueue import AnySession
from sqlalchemy_outbox.enqueueing.forgetting import ErasureWay
from sqlalchemy_outbox.enqueueing.losses import GOES_ON_WITHOUT, record_loss


def track_event(db: AnySession, event_type: str, payload: Mapping[str, object]) -> UUID:
    """Add a lifecycle event to the caller's transaction; it exists if and only if that commits.

    Takes a Session, an AsyncSession or their scoped forms, a Connection or an AsyncConnection, and needs no await.
    Returns the event's id, and means "buffered". Never raises: a payload that cannot be delivered is stored as failed
    with the reason, for an operator to see; where nothing could be atomic, the event is counted and logged as lost.
    Whether HubSpot is switched on does not matter here.
    """
    event_id = uuid4()
    subject = None
    try:
        subject = CATALOG.subject_of(payload)
        objection = CATALOG.objection_to(event_type, payload) if isinstance(event_type, str) else None
        return enqueue(db, OUTBOX, event_type, subject, payload, error=objection, event_id=event_id)
    except Exception as error:  # noqa: BLE001  # HubSpot must never break a request.
        record_loss(event_id, event_type, subject, in_words(error), GOES_ON_WITHOUT)
        return event_id


def forget(db: AnySession, subject: str, *, reason: str, way: ErasureWay = ErasureWay.ERASE) -> UUID:
    """Forget a driver if and only if the caller's transaction commits: in the outbox at once, and in HubSpot for good.

    Takes what `track_event` takes. From the commit on, events of the driver are stored as refusals without personal
    data. Unlike `track_event` it raises, and the transaction fails with it: without HUBSPOT_ERASURE_KEY, say, or where
    it cannot be written. `reason` is kept for good, so let it name nobody. Returns the id of the event that erases.
    Where code of an earlier release may still run, read docs/erasure.md first.
    """
    return forgetting.forget(db, OUTBOX, CATALOG, subject, reason=reason, way=way)
