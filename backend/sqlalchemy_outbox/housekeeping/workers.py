"""Which workers live, what they are and do, and which event types they know: each says so of itself now and then."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, or_, select, update

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.model import Outbox

# How often a worker says so.
SAID_EVERY = timedelta(seconds=30)
# How long one counts as alive that has said neither so nor that it stopped: three times as long.
ALIVE_FOR = 3 * SAID_EVERY
# How long the types count that a worker knew: a deployment may take its time, between the end of the last worker of one
# release and the first of the next.
REMEMBERED_FOR = timedelta(hours=1)
# How long a worker is kept that is silent, for who looks at what was deployed when, and how many at most.
_KEPT_FOR = timedelta(days=7)
_KEPT_MAX = 500


@dataclass(frozen=True, slots=True)
class Sign:
    """What a worker says of itself: `in_flight` are events; the rates are those since it last said so."""

    version: str = ""
    in_flight: int = 0
    events_per_second: float = 0.0
    requests_per_second: float = 0.0
    requests_allowed_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class KnownWorker:
    """A worker that lives, or has within a week. What one of an earlier release did not say is None."""

    id: str
    machine: str | None
    process: int | None
    version: str | None
    started_at: datetime | None
    seen_at: datetime
    stopped_at: datetime | None
    is_alive: bool
    in_flight: int | None
    events_per_second: float | None
    requests_per_second: float | None
    requests_allowed_per_second: float | None

    @property
    def had_events(self) -> int:
        """In flight, when it was seen last."""
        return self.in_flight or 0

    @property
    def is_dead(self) -> bool:
        """Whether it ended without a word."""
        return not self.is_alive and self.stopped_at is None

    @property
    def name(self) -> str:
        return self.id[:8] if self.machine is None else f"{self.machine}:{self.process}"

    def as_json(self) -> dict[str, object]:
        moments = {name: getattr(self, name) for name in ("started_at", "seen_at", "stopped_at")}
        told = {name: moment and moment.isoformat() for name, moment in moments.items()}
        return asdict(self) | told | {"is_dead": self.is_dead}


def note_alive(
    connection: Connection, outbox: Outbox, worker_id: str, types: Sequence[str], sign: Sign | None = None
) -> None:
    """Say that this worker lives, and forget those that have been silent for long."""
    c = outbox.workers.c
    said = {"seen_at": DatabaseNow(), "types": list(types), **asdict(sign or Sign())}
    if connection.execute(update(outbox.workers).where(c.id == worker_id).values(said)).rowcount:
        return
    newest = select(c.id).order_by(c.seen_at.desc()).limit(_KEPT_MAX)
    is_forgotten = or_(c.seen_at < DatabaseNow(-_KEPT_FOR.total_seconds()), c.id.not_in(newest))
    connection.execute(delete(outbox.workers).where(is_forgotten))
    begun = {"id": worker_id, "started_at": DatabaseNow(), "machine": socket.gethostname(), "process": os.getpid()}
    connection.execute(insert(outbox.workers).values(said | begun))


def note_stopped(connection: Connection, outbox: Outbox, worker_id: str) -> None:
    """Say that this worker has stopped in order; it has nothing in flight any more."""
    idle = {"in_flight": 0, "events_per_second": 0.0, "requests_per_second": 0.0}
    stopped = {"seen_at": DatabaseNow(), "stopped_at": DatabaseNow(), **idle}
    connection.execute(update(outbox.workers).where(outbox.workers.c.id == worker_id).values(stopped))


def known_types(connection: Connection, outbox: Outbox) -> frozenset[str]:
    """The event types that a worker knows which has been seen within REMEMBERED_FOR."""
    c = outbox.workers.c
    seen = select(c.types).where(c.seen_at >= DatabaseNow(-REMEMBERED_FOR.total_seconds()))
    return frozenset(type_ for types in connection.execute(seen).scalars() for type_ in types)


def count_lacking(connection: Connection, outbox: Outbox, type_: str) -> int:
    """How many workers that have been seen within REMEMBERED_FOR do not know this event type."""
    c = outbox.workers.c
    seen = select(c.types).where(c.seen_at >= DatabaseNow(-REMEMBERED_FOR.total_seconds()))
    return sum(type_ not in types for types in connection.execute(seen).scalars())


def read_workers(connection: Connection, outbox: Outbox) -> list[KnownWorker]:
    """All that are known: those that live first, each in the order of their start."""
    c = outbox.workers.c
    is_seen = c.seen_at >= DatabaseNow(-ALIVE_FOR.total_seconds())
    is_alive = (is_seen & c.stopped_at.is_(None)).label("is_alive")
    columns = [is_alive if field.name == "is_alive" else c[field.name] for field in fields(KnownWorker)]
    known = [KnownWorker(*row) for row in connection.execute(select(*columns))]
    return sorted(known, key=lambda worker: (not worker.is_alive, worker.started_at or worker.seen_at))
