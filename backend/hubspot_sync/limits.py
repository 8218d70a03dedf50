"""What HubSpot's answers say of the account's limits, and what follows for the requests that come after them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from hubspot_sync.answer import Answer
from sqlalchemy_outbox.gate.gate import Gate

log = logging.getLogger(__name__)

# Requests that were sent at even distances arrive at uneven ones, and HubSpot counts arrivals.
SHARE_OF_WINDOW = 0.985
# Below this share someone else uses the window too; a twentieth of it later there is room again.
SHARE_LEFT_MIN = 0.01
PAUSE_IN_WINDOWS = 0.05
# HubSpot's windows last ten seconds. What claims to be far longer is no such window.
WINDOW_MAX = timedelta(minutes=1)
# While the account's midnight is unknown, a daily limit is looked at again this often.
DAILY_WAIT_UNKNOWN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class WindowLimit:
    """At most `maximum` requests in any `window`; `remaining` were left when HubSpot answered."""

    maximum: int
    remaining: int
    window: timedelta

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> Self | None:
        maximum, remaining = _number(headers, "max"), _number(headers, "remaining")
        window_ms = _number(headers, "interval-milliseconds")
        if not maximum or remaining is None or not window_ms or window_ms > WINDOW_MAX / timedelta(milliseconds=1):
            return None
        return cls(maximum, remaining, timedelta(milliseconds=window_ms))


@dataclass(frozen=True, slots=True)
class DailyLimit:
    """At most `maximum` requests a day, of all the account's integrations together."""

    maximum: int
    remaining: int

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> Self | None:
        maximum, remaining = _number(headers, "daily"), _number(headers, "daily-remaining")
        return None if not maximum or remaining is None else cls(maximum, remaining)

    def leaves(self, reserve: float) -> bool:
        """Whether more than the share `reserve` is left."""
        return self.remaining > self.maximum * reserve


async def keep_pace(headers: Mapping[str, str], gate: Gate) -> None:
    """Slow the requests that follow so that HubSpot need not refuse any: to the account's rate, and to what is left."""
    limit = WindowLimit.read(headers)
    if limit is None:
        return
    rate = limit.maximum / limit.window.total_seconds()
    gate.allowed_per_second = rate
    if gate.keep_below(rate * SHARE_OF_WINDOW):
        log.info("Keeping below the account's limit of %g requests a second.", rate)
    if limit.remaining < limit.maximum * SHARE_LEFT_MIN:
        await gate.pause(limit.window * PAUSE_IN_WINDOWS)


async def call_in_control_slot(gate: Gate, call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Make a call that carries no events in a slot of its own; raise GateShut when none can be had, or NoAnswer."""
    await gate.wait_for_slot()
    answer = await call()
    await keep_pace(answer.headers, gate)
    return answer


def until_midnight(now: datetime, time_zone: ZoneInfo | None) -> timedelta:
    """How long until the account's day ends, and its daily limit with it."""
    if time_zone is None:
        return DAILY_WAIT_UNKNOWN
    tomorrow = now.astimezone(time_zone).date() + timedelta(days=1)
    # Between two instants of one zone Python subtracts wall clocks, which are an hour off on some days.
    return datetime.combine(tomorrow, datetime.min.time(), time_zone).astimezone(UTC) - now.astimezone(UTC)


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(f"x-hubspot-ratelimit-{name}", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None
