"""What the account was asked and how it answered: the last requests, and counts since the start."""

from collections import Counter, deque
from dataclasses import dataclass, field

from hubspot_sandbox.wire import JsonObject, iso

REQUESTS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One API request; no status means that the connection was reset instead of answered."""

    time: float
    method: str
    path: str
    status: int | None
    inputs: int | None
    duration_ms: float
    correlation_id: str
    fault: str | None

    def as_json(self) -> JsonObject:
        return {
            "time": iso(self.time),
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "inputs": self.inputs,
            "duration_ms": round(self.duration_ms, 2),
            "correlation_id": self.correlation_id,
            "fault": self.fault,
        }


@dataclass(slots=True)
class Journal:
    total: int = 0
    inputs: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    _records: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=REQUESTS_KEPT))

    def add(self, record: RequestRecord) -> None:
        self.total += 1
        self.inputs += record.inputs or 0
        self.by_status["reset" if record.status is None else str(record.status)] += 1
        self._records.append(record)

    def last(self, limit: int = REQUESTS_KEPT) -> list[RequestRecord]:
        """The most recent requests, oldest first."""
        return list(self._records)[-limit:] if limit > 0 else []
