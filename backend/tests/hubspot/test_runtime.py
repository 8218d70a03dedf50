"""The worker's life inside an application: whatever becomes of it, the application is told and goes on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from hubspot_sync.runtime import WorkerHost, WorkerState
from tests.hubspot.conftest import HubSpot


async def test_worker_that_ends_by_a_bug_is_reported_dead_and_stays_so(
    bare_hubspot: HubSpot, caplog: pytest.LogCaptureFixture
) -> None:
    no_catalog: Any = None
    host = WorkerHost(replace(bare_hubspot.integration, catalog=no_catalog))
    await host.start()
    async with asyncio.timeout(5):
        while host.status.state is WorkerState.RUNNING:  # noqa: ASYNC110  # The host has nothing to wait on.
            await asyncio.sleep(0)  # The task's end is what is waited for.
    await host.stop()
    assert host.status.state is WorkerState.DEAD
    assert "the log has it" in host.status.reason
    assert [it.levelno for it in caplog.records] == [logging.CRITICAL]


async def test_application_that_stops_as_soon_as_it_started_does_not_wait(bare_hubspot: HubSpot) -> None:
    host = WorkerHost(bare_hubspot.integration)
    await host.start()
    async with asyncio.timeout(5):
        await host.stop()
    assert host.status.state is WorkerState.STOPPED
