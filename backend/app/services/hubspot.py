"""`track_event`: what a driver did, told to HubSpot by way of the outbox. `forget`: a driver who is to be erased."""

from __future__ import annotations

from uuid import UUID

from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sync import Tracker, forgetting
from sqlalchemy_outbox.enqueueing.enqueue import AnySession
from sqlalchemy_outbox.enqueueing.forgetting import ErasureWay

track_event = Tracker(CATALOG, OUTBOX)


def forget(db: AnySession, subject: str, *, reason: str, way: ErasureWay = ErasureWay.ERASE) -> UUID:
    """Forget a driver if and only if the caller's transaction commits: in the outbox at once, and in HubSpot for good.

    Takes what `track_event` takes. From the commit on, events of the driver are stored as refusals without personal
    data. Unlike `track_event` it raises, and the transaction fails with it: without HUBSPOT_ERASURE_KEY, say, or where
    it cannot be written. `reason` is kept for good, so let it name nobody. Returns the id of the event that erases.
    Where code of an earlier release may still run, read docs/erasure.md first.
    """
    return forgetting.forget(db, OUTBOX, CATALOG, subject, reason=reason, way=way)
