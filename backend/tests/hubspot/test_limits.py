"""The account's limits slow the worker before HubSpot refuses anything, and requests are few."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from hubspot_sandbox import Sandbox
from hubspot_sync.limits import DailyLimit, WindowLimit, until_midnight
from sqlalchemy_outbox.model import GateState
from tests.hubspot.conftest import HubSpot, settings_for
from tests.hubspot.test_telemetry import eventually

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("settings", "mixed", "limit"),
    [({"hubspot_batch_size": 100}, False, 0.012), ({}, False, 0.024), ({}, True, 0.045)],
    ids=["batch 100", "batch 50", "mixed keys"],
)
def test_requests_per_event_of_a_full_backlog(
    hubspot: HubSpot, settings: dict[str, object], mixed: bool, limit: float
) -> None:
    hubspot.settings = settings_for(hubspot.sandbox, **settings)
    events = 1000
    for n in range(events):
        by_phone = mixed and n % 3 == 0
        hubspot.sign_up(f"driver-{n}", **({"phone": f"+4930{n:07}"} if by_phone else {"email": f"d{n}@example.com"}))
    before = len(hubspot.sandbox.requests())
    hubspot.deliver()
    assert len(hubspot.sandbox.contacts()) == events
    assert (len(hubspot.sandbox.requests()) - before) / events <= limit


def test_rate_above_the_accounts_is_lowered_to_it_and_nothing_is_refused(engine: Engine) -> None:
    with Sandbox(seed=1, rate_max=100) as strict:
        hubspot = HubSpot(engine, strict, settings_for(strict, hubspot_batch_size=1))
        hubspot.provision()
        strict.run(lambda account: account.rolling_limit("pat-na1-0").__init__(100))
        events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(20)]
        began = time.monotonic()
        hubspot.deliver()
        assert all(hubspot.is_delivered(it) for it in events)
        assert time.monotonic() - began > 1.5
        assert all(it["status"] != 429 for it in strict.requests())


def test_pace_that_the_look_at_start_learns_holds_for_the_first_events(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with Sandbox(seed=1, rate_max=100) as strict:
        hubspot = HubSpot(engine, strict, settings_for(strict, hubspot_batch_size=1))
        hubspot.provision()
        strict.run(lambda account: account.rolling_limit("pat-na1-0").__init__(80))
        for n in range(4):
            hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com")
        caplog.clear()
        with caplog.at_level("INFO"):
            asyncio.run(_deliver_once_the_pace_is_known(hubspot, caplog))
        arrived = [datetime.fromisoformat(upsert["time"]) for upsert in hubspot.upserts()]
        # The first may come late by an eighth of a second, as may each.
        assert max(arrived) - min(arrived) > timedelta(seconds=0.2), "the account's pace is a request in an eighth"


async def _deliver_once_the_pace_is_known(hubspot: HubSpot, caplog: pytest.LogCaptureFixture) -> None:
    async with hubspot.integration.worker() as worker:
        await asyncio.to_thread(eventually, lambda: "Keeping below the account's limit" in caplog.text)
        await worker.drain()


def test_reserve_of_the_daily_limit_is_left_to_others_until_the_accounts_midnight(engine: Engine) -> None:
    with Sandbox(seed=1, rate_max=10_000, daily_max=40) as strict:
        hubspot = HubSpot(
            engine,
            strict,
            settings_for(strict, hubspot_batch_size=1, hubspot_concurrency=1, hubspot_daily_reserve=0.25),
        )
        hubspot.provision()
        events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(30)]
        hubspot.deliver()
        left = strict.run(lambda account: account.daily_limit.remaining(account.clock()))
        assert left == 10
        gate = hubspot.gate()
        assert gate.state is GateState.THROTTLED
        assert "HUBSPOT_DAILY_RESERVE" in (gate.reason or "")
        assert gate.until is not None
        assert gate.until.astimezone(ZoneInfo("US/Eastern")).strftime("%H:%M") in ("00:00", "23:59")
        assert all(hubspot.row(it).attempt_count == 0 for it in events)
        assert all(it["status"] != 429 for it in strict.requests())


def test_midnight_is_the_accounts_also_when_clocks_change() -> None:
    day_of_25_hours = datetime(2026, 11, 1, 0, 30, tzinfo=NEW_YORK)
    for now in (day_of_25_hours, day_of_25_hours.astimezone(ZoneInfo("UTC"))):
        assert until_midnight(now, NEW_YORK) == timedelta(hours=24, minutes=30)
    assert until_midnight(day_of_25_hours, None) == timedelta(hours=1)


@pytest.mark.parametrize("value", ["", "-1", "0", "ten", "9" * 30, "²"])
def test_headers_that_make_no_sense_say_nothing(value: str) -> None:
    names = ("max", "remaining", "interval-milliseconds", "daily", "daily-remaining")
    headers = {f"x-hubspot-ratelimit-{it}": value for it in names}
    assert WindowLimit.read(headers) is None
    assert DailyLimit.read(headers) is None


@pytest.mark.parametrize(("value", "wait"), [("0", 1), ("9" * 400, 86_400), ("77", 77), ("1.5", 1.5)])
def test_retry_after_is_kept_within_bounds(hubspot: HubSpot, value: str, wait: float) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("custom", status=429, path="/batch/upsert", headers={"retry-after": value})
    began_at = time.monotonic()
    hubspot.deliver()
    left = hubspot.gate().wait_seconds
    # A busy machine may take its time to look.
    assert wait - (time.monotonic() - began_at) - 0.1 < left <= wait + 1
