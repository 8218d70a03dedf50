"""Drivers' events and the faults they meet, drawn at random: the worker of a bad day, and what must be left of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy_outbox.model import GateState
from tests.hubspot.conftest import HubSpot

BAD_EMAIL = "not..an@address..example"
# Whatever concerns everyone, or passes within an event's attempts. Those that refuse an input for good are not among
# them: BAD_EMAIL is refused by HubSpot's own rules.
FAULTS: list[dict[str, Any]] = [
    *({"kind": it} for it in ("down", "reset", "reset_after_applying", "server_error", "bad_gateway", "unavailable")),
    *({"kind": it} for it in ("gateway_timeout", "gateway_timeout_after_applying", "cdn_page", "blocked")),
    *({"kind": it} for it in ("empty_results", "canceled", "pending", "request_timeout")),
    *({"kind": it} for it in ("empty_body", "html_body", "malformed_body", "truncated_body")),
    *({"kind": it} for it in ("throttle", "throttle_secondly", "throttle_daily", "throttle_unknown", "migrating")),
    *({"kind": it} for it in ("locked", "too_large", "uri_too_long", "input_throttled")),
    *({"kind": it} for it in ("revoked", "expired", "missing_scopes", "forbidden", "payment_required")),
    *({"kind": it} for it in ("redirect", "no_such_path", "wrong_hublet", "wrong_object")),
    *({"kind": it} for it in ("reversed_results", "no_trace_echo", "unnamed_errors")),
    *({"kind": it, "requests": 1} for it in ("conflict", "input_lost_race", "input_conflict", "partial_results")),
    *({"kind": it, "requests": 1} for it in ("input_failed", "input_ignored", "huge_body")),
    # One that HubSpot cannot read, while it reads all others, is an input's own fault.
    {"kind": "unreadable", "share": 1.0},
    {"kind": "wrong_portal", "path": "/account-info"},
]
LONG = timedelta(minutes=10)


@dataclass
class FaultyDay:
    """`expected` is the state that each driver's contact must have in the end, by property."""

    hubspot: HubSpot
    random: Random
    drivers: int
    run_worker: Callable[[], None]
    expected: dict[str, dict[str, str]] = field(default_factory=dict)
    good: list[UUID] = field(default_factory=list)
    bad: list[UUID] = field(default_factory=list)

    def happen(self) -> None:
        """One driver does something; now and then her address is one that HubSpot refuses."""
        n = self.random.randrange(self.drivers)
        driver, total = f"driver-{n}", len(self.good) + len(self.bad)
        if self.random.random() < 0.03:
            self.bad.append(self.hubspot.earn(driver, total, email=BAD_EMAIL))
            return
        email = {} if n % 3 == 0 else {"email": f"{driver}@example.com"}
        self.good.append(self.hubspot.earn(driver, total, **email))
        self.expected.setdefault(driver, {}).update({"nerava_balance": str(total), **email})

    def go_wrong(self) -> None:
        """A few faults at once, each until it is mended or has met its requests."""
        for fault in self.random.sample(FAULTS, k=self.random.randint(1, 2)):
            share = self.random.choice([0.3, 1.0])
            self.hubspot.sandbox.faults.add(**{"path": "/batch/upsert", "share": share, **fault})

    def deliver(self) -> None:
        self.run_worker()
        self.hubspot.queue.pass_time(LONG)

    def calm_down(self) -> None:
        """The faults stop, and the worker has all the time it needs."""
        self.hubspot.sandbox.faults.clear()
        # A daily limit ends at midnight.
        self.hubspot.queue.pass_time(timedelta(days=1))
        for _ in range(8):
            self.deliver()

    def assert_all_is_right(self) -> None:
        assert self.hubspot.gate().state is GateState.OPEN
        wrong = [it for it in self.good if not self.hubspot.is_delivered(it)]
        assert wrong == [], self.hubspot.row(wrong[0]).last_error
        # One whose address a newer event replaced in the same input was never refused.
        assert all(self.hubspot.row(it).failed_at or self.hubspot.is_delivered(it) for it in self.bad)
        contacts = {it["properties"]["nerava_user_id"]: it["properties"] for it in self.hubspot.sandbox.contacts()}
        found = {driver: {name: contacts[driver].get(name) for name in it} for driver, it in self.expected.items()}
        assert found == self.expected
        assert len(contacts) == len(self.hubspot.sandbox.contacts()) == len(self.expected)


def live_through(hubspot: HubSpot, seed: int, *, spells: int, events: int, drivers: int) -> None:
    """Play a day of `spells` of trouble with `events` in all, and compare what is left.

    With an even seed one worker lives through it all; with an odd one each delivery is a new worker's.
    """
    with hubspot.one_worker() as deliver:
        day = FaultyDay(hubspot, Random(seed), drivers, hubspot.deliver if seed % 2 else deliver)
        for _ in range(spells):
            for _ in range(events // spells):
                day.happen()
            day.go_wrong()
            for _ in range(day.random.randint(1, 3)):
                day.deliver()
            day.hubspot.sandbox.faults.clear()
        day.calm_down()
    day.assert_all_is_right()
