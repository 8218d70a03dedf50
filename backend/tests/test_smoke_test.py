"""The smoke test as an operator runs it: a process of its own, its words, its exit code, and what it leaves behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, inspect, select

from app.database import create_database_engine
from app.events import CATALOG
from app.models import OUTBOX
from app.settings import Settings
from hubspot_sandbox import Sandbox
from hubspot_sync.integration import Integration
from hubspot_sync.settings import HubSpotSettings
from outbox import queries
from outbox.lease import LEASE
from outbox.model import State
from outbox.queries import EventState
from outbox.settlement import Settlement
from tests.conftest import BACKEND
from tests.hubspot.conftest import PORTAL_ID, HubSpot, settings_for

SCRIPT = BACKEND / "scripts" / "hubspot_smoke_test.py"
ENABLED = {"HUBSPOT_ENABLED": "true"}

# Each run is a process that imports everything anew, so what does not depend on the database is run once.
on_sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed=1) as sandbox:
        yield sandbox


def test_while_disabled_it_says_that_nothing_will_be_processed(sqlite_url):
    ended = run_smoke_test(sqlite_url, HUBSPOT_ENABLED="false")
    assert ended.returncode == 1
    assert "nothing will be processed. Set HUBSPOT_ENABLED=true" in ended.stdout


def test_it_migrates_nothing_and_says_that_the_table_is_missing(empty_database_url):
    ended = run_smoke_test(empty_database_url, **ENABLED)
    assert ended.returncode == 1
    assert "alembic upgrade head" in ended.stdout
    engine = create_database_engine(empty_database_url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_dry_run_ends_well_once_its_event_is_processed(database_url, engine):
    ended = run_smoke_test(database_url, **ENABLED)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "dry run: nothing leaves this machine" in ended.stdout
    assert "marked processed" in ended.stdout
    assert "[DRY-RUN]" in ended.stderr
    event = its_event(engine, ended)
    assert (event.state, event.attempt_count, event.last_error) == (State.DELIVERED, 0, None)


@on_sqlite_only
def test_live_it_refuses_to_send_without_being_told_so(database_url, engine):
    ended = run_smoke_test(database_url, **ENABLED, HUBSPOT_SEND_LIVE="true")
    assert ended.returncode == 1
    assert "--live" in ended.stdout
    assert events(engine) == 0


def test_live_it_leaves_a_contact_under_example_com(database_url, engine, sandbox):
    HubSpot(engine, sandbox, settings_for(sandbox)).provision()
    ended = run_smoke_test(database_url, "--live", **live(sandbox))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert its_event(engine, ended).state is State.DELIVERED
    [contact] = sandbox.contacts()
    assert contact["properties"]["email"].endswith("@example.com")
    assert contact["properties"]["nerava_user_id"].startswith("smoke-test-")


@on_sqlite_only
def test_a_shut_gate_ends_it_with_the_remedy(database_url, engine, sandbox):
    ended = run_smoke_test(database_url, "--live", **live(sandbox))
    assert ended.returncode == 1
    assert "Deliveries are held" in ended.stdout
    assert "run `provision`" in ended.stdout
    event = its_event(engine, ended)
    assert (event.state, event.attempt_count) == (State.PENDING, 0)
    assert sandbox.contacts() == []


async def test_an_event_that_a_running_worker_has_claimed_is_waited_for(engine):
    script = load_script()
    integration = Integration(HubSpotSettings(hubspot_enabled=True), OUTBOX, CATALOG, engine)
    subject, event_id = script.create_event(integration)
    [claimed] = claim_as_another_worker(engine)
    assert claimed.event_id == event_id
    waiting = asyncio.create_task(script.process(integration, subject, event_id))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    with engine.begin() as connection:
        queries.settle(connection, OUTBOX, "another", [Settlement(claimed.id, State.DELIVERED, 0, None)])
    await asyncio.wait_for(waiting, 10)


def run_smoke_test(database_url: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT.relative_to(BACKEND), *arguments],
        cwd=BACKEND,
        env=os.environ | defaults() | settings | {"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def defaults() -> dict[str, str]:
    """Every variable: the environment wins over a developer's .env, which must not reach the script."""
    values = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    return {name: it.get_secret_value() if isinstance(it, SecretStr) else str(it) for name, it in values.items()}


def live(sandbox: Sandbox) -> dict[str, str]:
    return {
        "HUBSPOT_ENABLED": "true",
        "HUBSPOT_SEND_LIVE": "true",
        "HUBSPOT_PRIVATE_APP_TOKEN": "pat-na1-0",
        "HUBSPOT_PORTAL_ID": PORTAL_ID,
        "HUBSPOT_BASE_URL": sandbox.url,
    }


def its_event(engine: Engine, ended: subprocess.CompletedProcess[str]) -> EventState:
    found = re.search(r"created event (\S+)", ended.stdout)
    assert found, ended.stdout + ended.stderr
    with engine.connect() as connection:
        event = queries.read_event(connection, OUTBOX, UUID(found[1]))
    assert event is not None
    return event


def events(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(OUTBOX.events.c.id)).all())


def claim_as_another_worker(engine: Engine) -> list[queries.Event]:
    with engine.begin() as connection:
        return queries.claim(connection, OUTBOX, types=CATALOG.types, token="another", lease=LEASE, limit=50)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hubspot_smoke_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
