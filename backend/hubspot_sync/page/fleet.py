"""The workers: who lives, of which version, and what all of them do together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy_outbox.operations import KnownWorker


@dataclass(frozen=True, slots=True)
class Fleet:
    """`share` is that of the account's limit which their requests use; None while the limit is unknown."""

    alive: list[KnownWorker]
    ended: list[KnownWorker]
    versions: list[tuple[str, int]]
    in_flight: int
    events_per_second: float
    requests_per_second: float
    share: float | None

    @classmethod
    def of(cls, workers: Sequence[KnownWorker]) -> Fleet:
        alive = [worker for worker in workers if worker.is_alive]
        ended = sorted(
            (worker for worker in workers if not worker.is_alive), key=lambda worker: worker.seen_at, reverse=True
        )
        requests = sum(worker.requests_per_second or 0.0 for worker in alive)
        allowed = [worker.requests_allowed_per_second for worker in alive if worker.requests_allowed_per_second]
        return cls(
            alive=alive,
            ended=ended,
            versions=Counter(worker.version or "unknown" for worker in alive).most_common(),
            in_flight=sum(worker.in_flight or 0 for worker in alive),
            events_per_second=sum(worker.events_per_second or 0.0 for worker in alive),
            requests_per_second=requests,
            share=requests / min(allowed) if allowed else None,
        )
