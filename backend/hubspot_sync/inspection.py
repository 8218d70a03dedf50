"""What a person looks at: the request that an event would be sent as.

Nothing here is redacted; who shows it does that, by `redaction`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubspot_sync.event import Catalog, UnreadableEvent
from hubspot_sync.translation import ContactUpsert, translate
from outbox.model import Event


def upsert_of(event: Event, newer: Sequence[Event], catalog: Catalog) -> ContactUpsert:
    """The upsert that would carry this event alone if it were sent now; raises UnreadableEvent.

    `newer` are delivered events of its subject, whose values stand. What waits behind it may join it on the way.
    """
    translation = translate([event], catalog, newer)
    if (rejected := translation.rejected.get(event.id)) is not None:
        raise UnreadableEvent(rejected.error)
    return translation.upserts[0]
