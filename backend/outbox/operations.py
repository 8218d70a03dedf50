"""What a person may do with events. The command line calls these; no SQL stands outside `queries`."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Engine

from outbox import queries, wakeup
from outbox.model import Outbox


def retry(engine: Engine, outbox: Outbox, event_ids: Sequence[UUID], types: Sequence[str]) -> set[UUID]:
    """Make failed events pending again with all their attempts; return their ids.

    Others are left alone: those that have not failed, and those of no type in `types`, which no worker would claim and
    which would keep their subject's later events waiting. A retry never moves its subject backwards: see
    `queries.newer_delivered`.
    """
    with engine.begin() as connection:
        retried = queries.retry_failed(connection, outbox, event_ids, types)
    wakeup.wake(engine, outbox)
    return retried
