"""Faults on request: what may go wrong between a client and HubSpot, switched on for some requests or some time.

This module decides which faults meet a request; `gateway.py` carries them out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count


class FaultKind(StrEnum):
    DOWN = "down"
    RESET = "reset"
    RESET_AFTER_APPLYING = "reset_after_applying"
    SLOW = "slow"
    THROTTLE = "throttle"
    THROTTLE_DAILY = "throttle_daily"
    THROTTLE_SECONDLY = "throttle_secondly"
    SERVER_ERROR = "server_error"
    BAD_GATEWAY = "bad_gateway"
    UNAVAILABLE = "unavailable"
    GATEWAY_TIMEOUT = "gateway_timeout"
    GATEWAY_TIMEOUT_AFTER_APPLYING = "gateway_timeout_after_applying"
    EMPTY_RESULTS = "empty_results"
    CANCELED = "canceled"
    LOCKED = "locked"
    MIGRATING = "migrating"
    WRONG_HUBLET = "wrong_hublet"
    REVOKED = "revoked"
    EXPIRED = "expired"
    MISSING_SCOPES = "missing_scopes"
    BLOCKED = "blocked"
    TOO_LARGE = "too_large"

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    FaultKind.DOWN: "every connection is reset, nothing is applied",
    FaultKind.RESET: "the connection is reset, nothing is applied",
    FaultKind.RESET_AFTER_APPLYING: "the write is applied, then the connection is reset",
    FaultKind.SLOW: "the work is done at once, the answer comes late",
    FaultKind.THROTTLE: "429 TEN_SECONDLY_ROLLING",
    FaultKind.THROTTLE_DAILY: "429 DAILY",
    FaultKind.THROTTLE_SECONDLY: "429 in the search limit's body, without a policy name",
    FaultKind.SERVER_ERROR: "500, HTML",
    FaultKind.BAD_GATEWAY: "502, HTML",
    FaultKind.UNAVAILABLE: "503, HTML",
    FaultKind.GATEWAY_TIMEOUT: "504, HTML, nothing is applied",
    FaultKind.GATEWAY_TIMEOUT_AFTER_APPLYING: "the write is applied, then 524, HTML",
    FaultKind.EMPTY_RESULTS: "200 that names no input, nothing is applied",
    FaultKind.CANCELED: "200 with status CANCELED, nothing is applied",
    FaultKind.LOCKED: "423",
    FaultKind.MIGRATING: "477 with Retry-After",
    FaultKind.WRONG_HUBLET: "488",
    FaultKind.REVOKED: "401 INVALID_AUTHENTICATION",
    FaultKind.EXPIRED: "401 EXPIRED_AUTHENTICATION",
    FaultKind.MISSING_SCOPES: "403 MISSING_SCOPES",
    FaultKind.BLOCKED: "403 from the CDN, HTML",
    FaultKind.TOO_LARGE: "413 for more than one input",
}


@dataclass(slots=True)
class Fault:
    id: int
    kind: FaultKind
    until: float | None = None
    requests_left: int | None = None
    delay_seconds: float = 1.0
    retry_after_seconds: int | None = None
    scopes: tuple[str, ...] = ("crm.objects.contacts.write",)
    path: str = ""

    def is_over(self, now: float) -> bool:
        spent = self.requests_left is not None and self.requests_left <= 0
        return spent or (self.until is not None and self.until <= now)

    def as_json(self, now: float) -> dict[str, object]:
        return {
            "id": self.id,
            "kind": self.kind.value,
            "meaning": self.kind.meaning,
            "seconds_left": None if self.until is None else max(0.0, round(self.until - now, 3)),
            "requests_left": self.requests_left,
            "delay": self.delay_seconds,
            "retry_after": self.retry_after_seconds,
            "path": self.path,
        }


@dataclass(slots=True)
class Faults:
    """The active faults, oldest first."""

    _active: list[Fault] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: count(1))

    def add(
        self,
        kind: FaultKind,
        now: float,
        *,
        seconds: float | None = None,
        requests: int | None = None,
        delay: float = 1.0,
        retry_after: int | None = None,
        scopes: tuple[str, ...] = ("crm.objects.contacts.write",),
        path: str = "",
    ) -> Fault:
        """Switch a fault on: for `seconds`, for the next `requests`, for whichever ends first, or until removed.

        Only requests whose path contains `path` are met.
        """
        until = None if seconds is None else now + seconds
        fault = Fault(next(self._ids), kind, until, requests, delay, retry_after, scopes, path)
        self._active.append(fault)
        return fault

    def active(self, now: float) -> list[Fault]:
        self._active = [fault for fault in self._active if not fault.is_over(now)]
        return list(self._active)

    def remove(self, fault_id: int) -> None:
        self._active = [fault for fault in self._active if fault.id != fault_id]

    def clear(self) -> None:
        self._active.clear()

    def meet(self, path: str, now: float) -> "MetFaults":
        """The faults this request meets, each counted: the oldest one that answers it, and all that delay it."""
        answering: Fault | None = None
        delay = 0.0
        for fault in self.active(now):
            if fault.path not in path:
                continue
            if fault.kind is FaultKind.SLOW:
                delay += fault.delay_seconds
            elif answering is None:
                answering = fault
            else:
                continue
            if fault.requests_left is not None:
                fault.requests_left -= 1
        return MetFaults(answering, delay)


@dataclass(frozen=True, slots=True)
class MetFaults:
    answering: Fault | None
    delay_seconds: float
