"""What a person may do with events. The command line calls these; no SQL stands outside `queries`."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Engine

from outbox import queries, wakeup
from outbox.model import Outbox


def retry(engine: Engine, outbox: Outbox, event_ids: Sequence[UUID]) -> set[UUID]:
    """Make failed events pending again with all their attempts; return those that were failed.

    Others are left alone. A retry never moves its subject backwards: see `queries.newer_delivered`.
    """
    with engine.begin() as connection:
        retried = queries.retry_failed(connection, outbox, event_ids)
    wakeup.wake(engine, outbox)
    return retried
