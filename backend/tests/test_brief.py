"""The brief, line by line: each promise is a test of its own, on both databases where one is involved.

The smoke test has its own file, and so do the migrations.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import Engine, Row, text
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app import cli
from app.events import CATALOG
from app.main import create_app
from app.models import OUTBOX
from app.services.hubspot import track_event
from app.settings import Settings
from hubspot_sandbox import Sandbox
from sqlalchemy_outbox.claiming.scan import Scan
from sqlalchemy_outbox.delivering import worker
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.settling.backoff import backoff
from tests.app.conftest import Hub
from tests.conftest import BACKEND
from tests.hubspot.conftest import PORTAL_ID, HubSpot, settings_for
from tests.outbox.queue import LongestWait

STARTED = "HubSpot sync worker started"
NOT_STARTED = "HubSpot sync worker not started (HUBSPOT_ENABLED=false)"

UNPROCESSED = "SELECT COUNT(*) FROM outbox_events WHERE processed_at IS NULL"
FAILED = "SELECT * FROM outbox_events WHERE attempt_count >= 3"
RECENT = "SELECT * FROM outbox_events WHERE processed_at IS NOT NULL ORDER BY processed_at DESC LIMIT 10"

PAYLOADS: dict[str, dict[str, object]] = {
    "driver_signed_up": {"created_at": "2026-11-24T06:40:02.123456Z"},
    "wallet_pass_installed": {"pass_type": "apple", "installed_at": "2026-11-24T06:41:00Z"},
    "nova_earned": {"amount": 78, "earned_at": "2026-11-24T06:42:00Z"},
    "nova_redeemed": {
        "amount": 30,
        "merchant_id": "corner-bakery",
        "redemption_id": "r1",
        "redeemed_at": "2026-11-24T06:43:00Z",
    },
    "first_redemption_completed": {
        "redemption_id": "r1",
        "merchant_id": "corner-bakery",
        "completed_at": "2026-11-24T06:43:00Z",
    },
}

on_sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def _sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed=1, rate_max=10_000) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_sandbox: Sandbox) -> Sandbox:
    _sandbox.reset()
    return _sandbox


@pytest.fixture
def hubspot(engine: Engine, sandbox: Sandbox) -> HubSpot:
    hubspot = HubSpot(engine, sandbox, settings_for(sandbox))
    hubspot.provision()
    return hubspot


@pytest.fixture
def dry_run(engine: Engine, sandbox: Sandbox) -> HubSpot:
    return HubSpot(engine, sandbox, settings_for(sandbox, hubspot_send_live=False))


@pytest.fixture
def serve(database_url: str, sandbox: Sandbox) -> Callable[..., Any]:
    """Nerava, serving with these settings."""

    @contextmanager
    def serving(**settings: object) -> Iterator[Hub]:
        values: dict[str, object] = {"database_url": database_url, "hubspot_base_url": sandbox.url}
        codes: list[Any] = []
        with TestClient(create_app(Settings(_env_file=None, **(values | settings)), codes.append)) as http:
            yield Hub(http, codes)

    return serving


LIVE = {
    "hubspot_enabled": True,
    "hubspot_send_live": True,
    "hubspot_private_app_token": "pat-na1-0",
    "hubspot_portal_id": PORTAL_ID,
}


# User action → router → track_event() → outbox_events → worker → HubSpot API


def test_a_drivers_action_becomes_a_hubspot_contact(serve, hubspot):
    with serve(**LIVE) as hub:
        driver = hub.sign_up(email="ada@example.com")
        until(lambda: hubspot.contact(driver.id) is not None)
    contact = hubspot.contact(driver.id)
    assert contact is not None
    assert (contact["email"], contact["nerava_stage"]) == ("ada@example.com", "signed_up")


# track_event


def test_the_example_call_works_as_it_is_written(engine):
    readme = (BACKEND.parent / "README.md").read_text()
    [example] = re.findall(r"```python\n(from app\.services\.hubspot import track_event.*?)```", readme, re.DOTALL)
    user = SimpleNamespace(id=uuid4(), email="ada@example.com")
    # Python 3.12 deprecates what the brief calls; the text is the same.
    naive_utc = SimpleNamespace(utcnow=lambda: datetime.now(UTC).replace(tzinfo=None))
    with Session(engine) as db, db.begin():
        exec(example, {"db": db, "user": user, "datetime": naive_utc})
    [event] = rows(engine, "SELECT * FROM outbox_events")
    assert (event.event_type, event.subject, event.attempt_count, event.last_error) == (
        "driver_signed_up",
        str(user.id),
        0,
        None,
    )
    assert f'"user_id":"{user.id}","email":"ada@example.com","auth_provider":"otp"' in event.payload


def test_the_five_events_are_known_and_no_other():
    assert sorted(CATALOG.types) == sorted(PAYLOADS)


def test_each_of_the_five_events_reaches_a_contact(hubspot):
    event_ids = {it: hubspot.track(it, {"user_id": it, **payload}) for it, payload in PAYLOADS.items()}
    hubspot.deliver()
    for event_type, event_id in event_ids.items():
        assert hubspot.is_delivered(event_id)
        assert hubspot.contact(event_type) is not None


# The environment


def test_the_briefs_variables_have_the_briefs_defaults():
    settings = Settings(_env_file=None)
    assert (
        settings.hubspot_enabled,
        settings.hubspot_send_live,
        settings.hubspot_private_app_token.get_secret_value(),
        settings.hubspot_portal_id,
    ) == (False, False, "", "")


def test_the_briefs_variables_are_read_from_the_environment(monkeypatch):
    for name, value in {
        "HUBSPOT_ENABLED": "true",
        "HUBSPOT_SEND_LIVE": "true",
        "HUBSPOT_PRIVATE_APP_TOKEN": "pat-na1-0",
        "HUBSPOT_PORTAL_ID": "1234",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)
    assert settings.hubspot_enabled
    assert settings.hubspot_send_live
    assert settings.hubspot_private_app_token.get_secret_value() == "pat-na1-0"
    assert settings.hubspot_portal_id == "1234"


@on_sqlite_only
@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ({"hubspot_private_app_token": ""}, "HUBSPOT_PRIVATE_APP_TOKEN is empty"),
        ({"hubspot_portal_id": " "}, "HUBSPOT_PORTAL_ID is empty"),
        (
            {"hubspot_private_app_token": "", "hubspot_portal_id": ""},
            "HUBSPOT_PRIVATE_APP_TOKEN and HUBSPOT_PORTAL_ID are empty",
        ),
    ],
)
def test_live_without_token_or_portal_serves_and_stores_and_one_line_says_what_to_set(
    serve, engine, sandbox, caplog, missing, named
):
    with serve(**(LIVE | missing)) as hub:
        hub.sign_up()
        assert named in hub.http.get("/readyz").json()["worker"]["reason"]
    assert len([it for it in messages(caplog) if named in it]) == 1
    assert count_unprocessed(engine) == 1
    assert sandbox.requests() == []


# The worker


def test_the_worker_starts_with_the_application_if_enabled(serve, engine, caplog):
    with serve(hubspot_enabled=True) as hub:
        hub.sign_up()
        until(lambda: count_unprocessed(engine) == 0)
    assert STARTED in messages(caplog)
    assert NOT_STARTED not in messages(caplog)


def test_the_worker_does_not_start_if_not_enabled_and_events_wait(serve, engine, caplog):
    with serve() as hub:
        hub.sign_up()
    assert NOT_STARTED in messages(caplog)
    assert STARTED not in messages(caplog)
    assert count_unprocessed(engine) == 1


def test_the_worker_alone_prints_the_briefs_line_and_exits_0_when_disabled(monkeypatch, caplog):
    for name, field in Settings.model_fields.items():
        default = field.default
        monkeypatch.setenv(name.upper(), default.get_secret_value() if isinstance(default, SecretStr) else str(default))
    caplog.set_level(logging.INFO)
    ended = CliRunner().invoke(cli.cli, ["worker"])
    assert ended.exit_code == 0
    assert NOT_STARTED in messages(caplog)


async def test_the_worker_polls_the_outbox_every_10_seconds(dry_run, engine, monkeypatch):
    assert timedelta(seconds=10) == worker.POLL_INTERVAL
    monkeypatch.setattr(worker, "POLL_INTERVAL", timedelta(milliseconds=20))
    async with dry_run.integration.worker() as its_worker:
        running = asyncio.create_task(its_worker.run())
        # As another process commits: no wake event is set here.
        with engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO outbox_events (event_id, event_type, subject, payload, created_at, available_at) "
                    "VALUES (:id, 'driver_signed_up', 'd1', :payload, :now, :now)"
                ),
                {
                    "id": str(uuid4()),
                    "payload": '{"user_id": "d1", "created_at": "2026-01-01T00:00:00Z"}',
                    "now": "2026-01-01T00:00:00.000Z",
                },
            )
        deadline = time.monotonic() + 10
        while count_unprocessed(engine):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        its_worker.stop()
        await running


def test_a_batch_takes_up_to_50_events(hubspot):
    assert Settings(_env_file=None).hubspot_batch_size == 50
    with Session(hubspot.engine) as db, db.begin():
        for number in range(60):
            track_event(db, "driver_signed_up", {"user_id": f"d{number}", **PAYLOADS["driver_signed_up"]})
    hubspot.deliver()
    # Both are in flight at once, so either may arrive first.
    assert sorted(it["inputs"] for it in hubspot.upserts()) == [10, 50]


def test_a_failed_event_is_tried_3_times_with_exponential_backoff(hubspot):
    event_id = hubspot.sign_up("d1")
    hubspot.sandbox.faults.add("input_failed")
    for attempt, longest in ((1, timedelta(seconds=2)), (2, timedelta(seconds=8)), (3, timedelta(0))):
        hubspot.deliver()
        event = hubspot.row(event_id)
        assert event.attempt_count == attempt
        assert event.last_error
        assert event.available_at - datetime.now(UTC) <= longest
        hubspot.queue.pass_time(longest)
    requests = len(hubspot.upserts())
    assert requests == 3
    hubspot.sandbox.faults.clear()
    hubspot.deliver()
    assert len(hubspot.upserts()) == requests
    assert ids(rows(hubspot.engine, FAILED)) == [event_id]


def test_backoff_grows_fourfold_to_a_limit():
    waits = [backoff(attempt, LongestWait()).total_seconds() for attempt in range(1, 7)]
    assert waits == [2, 8, 32, 128, 300, 300]


def test_8_requests_a_second_are_kept_to(hubspot):
    assert Settings(_env_file=None).hubspot_requests_per_second == 8
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_requests_per_second=8, hubspot_batch_size=1)
    for number in range(5):
        hubspot.sign_up(f"d{number}")
    began_at = time.monotonic()
    hubspot.deliver()
    # The look at the account, and five upserts: five intervals between them.
    assert len(hubspot.upserts()) == 5
    assert time.monotonic() - began_at >= 5 / 8


def test_a_429_is_tried_again_and_costs_no_attempt(hubspot):
    event_id = hubspot.sign_up("d1")
    hubspot.sandbox.faults.add("throttle", requests=1, path="/batch/upsert")
    hubspot.deliver()
    assert hubspot.gate().state is GateState.THROTTLED
    assert not hubspot.is_delivered(event_id)
    hubspot.queue.pass_time(timedelta(seconds=10))
    hubspot.deliver()
    assert hubspot.is_delivered(event_id)
    assert hubspot.row(event_id).attempt_count == 0


# Log lines


def test_a_dry_run_logs_one_line_for_each_event_that_it_would_have_sent(dry_run, caplog):
    caplog.set_level(logging.INFO)
    event_ids = [dry_run.sign_up("d1"), dry_run.earn("d1", 10), dry_run.sign_up("d2")]
    dry_run.track("no_such_event", {"user_id": "d3"})
    dry_run.deliver()
    lines = [it for it in messages(caplog) if it.startswith("[DRY-RUN]")]
    assert len(lines) == len(event_ids)
    for event_id in event_ids:
        assert len([it for it in lines if str(event_id) in it]) == 1
        assert dry_run.row(event_id).dry_run
    assert dry_run.sandbox.requests() == []


# Commands


def test_alembic_upgrade_head_migrates_the_database_of_the_environment(sqlite_url, tmp_path):
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    subprocess.run(command, cwd=BACKEND, env=os.environ | {"DATABASE_URL": sqlite_url}, check=True, capture_output=True)
    assert (tmp_path / "nerava.db").exists()


# Queries


def test_the_briefs_queries_tell_the_truth(dry_run, engine):
    delivered = []
    for number in range(12):
        delivered.append(dry_run.sign_up(f"d{number}"))
        dry_run.deliver()
    claimed = dry_run.sign_up("claimed")
    with engine.begin() as connection:
        Scan(OUTBOX).claim(connection, types=CATALOG.types, token="t", lease=LEASE, limit=1)
    dry_run.sign_up("pending")
    failed = dry_run.track("no_such_event", {"user_id": "d1"})
    assert dry_run.row(claimed).claim_token == "t"
    assert rows(engine, UNPROCESSED)[0][0] == 3
    assert ids(rows(engine, FAILED)) == [failed]
    recent = rows(engine, RECENT)
    assert len(recent) == 10
    assert set(ids(recent)) <= set(delivered)
    assert [it.processed_at for it in recent] == sorted((it.processed_at for it in recent), reverse=True)


# Fail-open, and safe by default


@pytest.mark.parametrize("trouble", ["down", "server_error", "revoked", "throttle_daily", "missing_scopes"])
@on_sqlite_only
def test_hubspots_trouble_neither_fails_a_request_nor_an_event(serve, hubspot, trouble):
    hubspot.sandbox.faults.add(trouble)
    with serve(**LIVE, hubspot_requests_per_second=100) as hub:
        driver = hub.sign_up(email="ada@example.com")
        assert hub.install_pass(driver).status_code == 201
        until(lambda: hubspot.gate().state is not GateState.OPEN)
        assert hub.http.get("/readyz").status_code == 200
    events = rows(hubspot.engine, "SELECT * FROM outbox_events")
    assert [(it.attempt_count, it.processed_at) for it in events] == [(0, None), (0, None)]
    hubspot.sandbox.faults.clear()
    hubspot.queue.pass_time(timedelta(days=2))
    hubspot.deliver()
    assert count_unprocessed(hubspot.engine) == 0


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"hubspot_enabled": True},
        {"hubspot_send_live": True},
    ],
)
@on_sqlite_only
def test_nothing_is_sent_unless_both_switches_say_so(serve, sandbox, engine, switches):
    with serve(**(LIVE | {"hubspot_enabled": False, "hubspot_send_live": False} | switches)) as hub:
        hub.sign_up()
        if switches.get("hubspot_enabled"):
            until(lambda: count_unprocessed(engine) == 0)
    assert sandbox.requests() == []


def rows(engine: Engine, query: str, parameters: Mapping[str, object] | None = None) -> list[Row[Any]]:
    with engine.connect() as connection:
        return list(connection.execute(text(query), parameters or {}))


def ids(events: list[Row[Any]]) -> list[UUID]:
    return [UUID(str(it.event_id)) for it in events]


def count_unprocessed(engine: Engine) -> int:
    count: int = rows(engine, UNPROCESSED)[0][0]
    return count


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [it.getMessage() for it in caplog.records]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
