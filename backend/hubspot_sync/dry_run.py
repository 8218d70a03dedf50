"""A dry run builds the requests that live would send, logs them, and marks the events delivered."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

from hubspot_sync.event import Catalog
from hubspot_sync.overtaken import without_overtaken
from hubspot_sync.redaction import without_personal
from hubspot_sync.translation import ContactUpsert, requests, translate
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Delivered, Outcome

log = logging.getLogger(__name__)


class DryRun:
    """Nothing leaves the machine: no slot is taken and no connection made. A person's hold keeps it back too."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        await gate.raise_if_held()
        translation = await without_overtaken(translate(claim.events, self._catalog), claim)
        for request in requests(translation.upserts):
            _log_request(request)
        carriers = {event.id: upsert for upsert in translation.upserts for event in upsert.events}
        would_be_sent = [event for event in claim.events if event.id in carriers]
        for event in would_be_sent:
            _log_event(event, carriers[event.id])
        return {**translation.not_sent, **{event.id: Delivered(dry_run=True) for event in would_be_sent}}


def _log_request(request: Sequence[ContactUpsert]) -> None:
    if not log.isEnabledFor(logging.DEBUG):
        return
    inputs = [without_personal(upsert.as_input(), upsert.catalog.personal_names) for upsert in request]
    log.debug("Would POST to contacts/batch/upsert: %s", json.dumps({"inputs": inputs}, ensure_ascii=False))


def _log_event(event: Event, upsert: ContactUpsert) -> None:
    # The names of the properties only: their values are a person's.
    log.info(
        "[DRY-RUN] event %s (%s of %s) would upsert the contact by %s, setting %s",
        *(event.event_id, event.event_type, event.subject, upsert.key_property, ", ".join(upsert.properties)),
        extra={"event_id": str(event.event_id), "event_type": event.event_type, "subject": event.subject},
    )
