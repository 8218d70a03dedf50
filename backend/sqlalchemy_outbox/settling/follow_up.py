"""Stores what a delivery leaves to be done, in the transaction that settles the delivered event."""

from __future__ import annotations

import json
from collections.abc import Iterable
from uuid import uuid4

from sqlalchemy import Connection, insert

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.outcome import FollowUp


def store(connection: Connection, outbox: Outbox, follow_ups: Iterable[FollowUp]) -> None:
    # One instant for both columns: an event that is due later than it was enqueued has been pushed back.
    now = DatabaseNow()
    for follow_up in follow_ups:
        values = {"event_type": follow_up.event_type, "subject": follow_up.subject, "created_at": now}
        payload = json.dumps(follow_up.payload)
        connection.execute(insert(outbox.events).values(event_id=uuid4(), payload=payload, available_at=now, **values))
