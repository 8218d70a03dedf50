"""What a delivery leaves to be done: an event that is stored in the transaction which settles the delivered one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from sqlalchemy import Connection, insert

from outbox.clock import DatabaseNow
from outbox.model import Outbox


@dataclass(frozen=True, slots=True)
class FollowUp:
    """An event of a type that only the destination knows. It has its place in its subject's order like any other."""

    event_type: str
    subject: str
    payload: Mapping[str, object] = field(repr=False)


def store(connection: Connection, outbox: Outbox, follow_ups: Iterable[FollowUp]) -> None:
    # One instant for both columns: an event that is due later than it was enqueued has been pushed back.
    now = DatabaseNow()
    for follow_up in follow_ups:
        values = {"event_type": follow_up.event_type, "subject": follow_up.subject, "created_at": now}
        payload = json.dumps(follow_up.payload)
        connection.execute(insert(outbox.events).values(event_id=uuid4(), payload=payload, available_at=now, **values))
