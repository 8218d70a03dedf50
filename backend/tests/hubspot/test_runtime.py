"""The worker's life inside an application: whatever becomes of it, the application is told and goes on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from hubspot_sync import AsgiIntegration, WorkerThread
from hubspot_sync.runtime import WorkerHost, WorkerState
from sqlalchemy_outbox.operations import hold
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


def test_worker_in_a_thread_delivers_until_it_is_stopped_and_can_be_started_again(hubspot: HubSpot) -> None:
    thread = WorkerThread(hubspot.integration)
    assert thread.status.state is WorkerState.STOPPED
    for number in range(2):
        with thread:
            hubspot.sign_up(f"d{number}")
            hubspot.sandbox.wait_until(lambda account, n=number: len(account.contacts.page(0, limit=9)) > n)
            assert thread.status.state is WorkerState.RUNNING
        assert thread.status.state is WorkerState.STOPPED
    thread.stop()


def test_worker_that_is_switched_off_says_how_to_run_it_in_the_applications_own_words(bare_hubspot: HubSpot) -> None:
    settings = bare_hubspot.settings.model_copy(update={"hubspot_worker_in_app": False})
    with WorkerThread(replace(bare_hubspot.integration, settings=settings, command_line="python -m shop")) as thread:
        assert thread.status.state is WorkerState.ELSEWHERE
        assert thread.status.reason == "HUBSPOT_WORKER_IN_APP=false: start `python -m shop worker`"


def test_mounted_application_tells_health_to_all_and_metrics_to_the_operator(bare_hubspot: HubSpot) -> None:
    settings = bare_hubspot.settings.model_copy(
        update={"operator_token": SecretStr("operators-token-of-the-tests"), "hubspot_enabled": False}
    )
    integration = replace(bare_hubspot.integration, settings=settings)
    hubspot = AsgiIntegration(lambda: integration)
    app = Starlette(lifespan=hubspot.lifespan, routes=[Mount("/ops", hubspot)])
    unstarted = TestClient(app)
    assert unstarted.get("/ops/health").status_code == 503
    assert unstarted.get("/ops/metrics").status_code == 404
    with TestClient(app) as http:
        hold(integration.engine, integration.outbox, "Ada said so", by="cli:ada")
        health = http.get("/ops/health")
        assert health.json() == {
            "status": "ready",
            "worker": {"state": "disabled", "reason": "HUBSPOT_ENABLED=false"},
            "gate": {"state": "held", "until": None},
            "behind": [],
        }
        assert http.get("/ops/metrics", headers={"Authorization": "Bearer a guess"}).status_code == 401
        right = {"Authorization": "Bearer operators-token-of-the-tests"}
        assert "outbox_gate_state" in http.get("/ops/metrics", headers=right).text
        assert http.get("/ops/sign-in").status_code == 200
        with integration.engine.begin() as connection:
            connection.execute(text("ALTER TABLE outbox_events_waits RENAME TO elsewhere"))
        lacking = http.get("/ops/health")
        assert lacking.status_code == 503
        assert "step 1 (Create the outbox's tables.)" in lacking.json()["detail"]
