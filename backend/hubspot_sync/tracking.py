"""Tracking: what somebody did, told to HubSpot by way of the outbox, without ever breaking the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from sqlalchemy_outbox import enqueue
from sqlalchemy_outbox.database.isolation import in_words
from sqlalchemy_outbox.enqueueing.enqueue import AnySession
from sqlalchemy_outbox.enqueueing.losses import GOES_ON_WITHOUT, record_loss

if TYPE_CHECKING:
    from hubspot_sync.event import Catalog
    from sqlalchemy_outbox.model import Outbox


@dataclass(frozen=True, slots=True)
class Tracker:
    """An application's way to say what happened: `track = Tracker(CATALOG, OUTBOX)`, then `track(db, …)`."""

    catalog: Catalog
    outbox: Outbox

    def __call__(self, db: AnySession, event_type: str, payload: Mapping[str, object]) -> UUID:
        """Add a lifecycle event to the caller's transaction; it exists if and only if that commits.

        Takes a Session, an AsyncSession or their scoped forms, a Connection or an AsyncConnection, and needs no await.
        Returns the event's id, and means "buffered". Never raises: a payload that cannot be delivered is stored as
        failed with the reason, for an operator to see; where nothing could be atomic, the event is counted and logged
        as lost. Whether HubSpot is switched on does not matter here.
        """
        event_id = uuid4()
        subject = None
        try:
            subject = self.catalog.subject_of(payload)
            objection = self.catalog.objection_to(event_type, payload) if isinstance(event_type, str) else None
            return enqueue(db, self.outbox, event_type, subject, payload, error=objection, event_id=event_id)
        except Exception as error:  # noqa: BLE001  # HubSpot must never break a request.
            record_loss(event_id, event_type, subject, in_words(error), GOES_ON_WITHOUT)
            return event_id
