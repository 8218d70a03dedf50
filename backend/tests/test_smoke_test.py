"""The smoke test as an operator runs it: its words, its exit code, and what it leaves behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from sqlalchemy_outbox.claiming.scan import Scan
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import Event, State
from sqlalchemy_outbox.operating.search import EventSummary, read_events
from sqlalchemy_outbox.settling import leases
from sqlalchemy_outbox.settling.settlement import Settlement
from tests.conftest import BACKEND
from tests.hubspot.conftest import PORTAL_ID, HubSpot, settings_for

SCRIPT = BACKEND / "scripts" / "hubspot_smoke_test.py"

on_sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass
class Ended:
    exit_code: int
    words: str
    log: str = ""


@pytest.fixture(scope="module")
def _sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed=1) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_sandbox: Sandbox) -> Sandbox:
    _sandbox.reset()
    return _sandbox


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hubspot_smoke_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def smoke_test(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """The script in this process: one of its own takes seconds to import everything anew."""

    def run(engine: Engine, *arguments: str, **settings: object) -> Ended:
        integration = Integration(HubSpotSettings(**settings), OUTBOX, CATALOG, engine)
        monkeypatch.setattr(script, "load_integration", lambda: integration)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        return Ended(script.main(), capsys.readouterr().out)

    return run


def test_as_a_command_it_ends_well_once_a_dry_run_has_processed_its_event(database_url, engine):
    ended = run_command(database_url, HUBSPOT_ENABLED="true")
    assert ended.exit_code == 0, ended
    assert "dry run: nothing leaves this machine" in ended.words
    assert "marked processed" in ended.words
    assert "[DRY-RUN]" in ended.log
    event = its_event(engine, ended)
    assert (event.state, event.attempt_count, event.last_error) == (State.DELIVERED, 0, None)


@on_sqlite_only
def test_as_a_command_it_sends_live_when_told_so(database_url, engine, sandbox):
    HubSpot(engine, sandbox, settings_for(sandbox)).provision()
    settings = {name.upper(): str(value) for name, value in live(sandbox).items()}
    ended = run_command(database_url, "--live", **settings)
    assert ended.exit_code == 0, ended
    assert len(sandbox.contacts()) == 1


def test_as_a_command_it_exits_1_while_disabled_and_says_that_nothing_will_be_processed(sqlite_url):
    ended = run_command(sqlite_url)
    assert ended.exit_code == 1
    assert "nothing will be processed. Set HUBSPOT_ENABLED=true" in ended.words


def test_as_a_command_it_names_a_setting_that_makes_no_sense_in_one_line(sqlite_url):
    ended = run_command(sqlite_url, HUBSPOT_ENABLED="maybe")
    assert (ended.exit_code, ended.words.count("\n")) == (1, 1)
    assert "HUBSPOT_ENABLED: Input should be a valid boolean" in ended.words


def test_it_migrates_nothing_and_says_that_the_table_is_missing(empty_database_url, smoke_test):
    engine = create_database_engine(empty_database_url)
    ended = smoke_test(engine, hubspot_enabled=True)
    assert ended.exit_code == 1
    assert "no table outbox_events" in ended.words
    assert "alembic upgrade head" in ended.words
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_live_it_refuses_to_send_without_being_told_so(engine, sandbox, smoke_test):
    ended = smoke_test(engine, **live(sandbox))
    assert ended.exit_code == 1
    assert "--live" in ended.words
    assert count_events(engine) == 0


def test_live_it_refuses_without_a_token(engine, sandbox, smoke_test):
    ended = smoke_test(engine, "--live", **(live(sandbox) | {"hubspot_private_app_token": ""}))
    assert ended.exit_code == 1
    assert "HUBSPOT_PRIVATE_APP_TOKEN is empty" in ended.words
    assert count_events(engine) == 0


def test_live_it_leaves_a_contact_under_example_com(engine, sandbox, smoke_test):
    HubSpot(engine, sandbox, settings_for(sandbox)).provision()
    ended = smoke_test(engine, "--live", **live(sandbox))
    assert ended.exit_code == 0, ended
    assert its_event(engine, ended).state is State.DELIVERED
    [contact] = sandbox.contacts()
    assert contact["properties"]["email"].endswith("@example.com")
    assert contact["properties"]["nerava_user_id"].startswith("smoke-test-")


def test_a_shut_gate_ends_it_with_the_remedy_and_costs_its_event_nothing(engine, sandbox, smoke_test):
    ended = smoke_test(engine, "--live", **live(sandbox))
    assert ended.exit_code == 1
    assert "Deliveries are held" in ended.words
    assert "run `provision`" in ended.words
    event = its_event(engine, ended)
    assert (event.state, event.attempt_count) == (State.PENDING, 0)
    assert sandbox.contacts() == []


def test_it_delivers_its_own_subject_and_no_other(engine, smoke_test):
    other = HubSpot(engine, Sandbox(), HubSpotSettings()).sign_up("d1")
    assert smoke_test(engine, hubspot_enabled=True).exit_code == 0
    with engine.connect() as connection:
        [event] = read_events(connection, OUTBOX, [other])
    assert event.state is State.PENDING


async def test_an_event_that_a_running_worker_has_claimed_is_waited_for(engine, script):
    integration = Integration(HubSpotSettings(hubspot_enabled=True), OUTBOX, CATALOG, engine)
    subject, event_id = script.create_event(integration)
    [claimed] = claim_as_another_worker(engine)
    assert claimed.event_id == event_id
    waiting = asyncio.create_task(script.process(integration, subject, event_id))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    with engine.begin() as connection:
        leases.settle(connection, OUTBOX, "another", [Settlement(claimed.id, State.DELIVERED, 0, None)])
    await asyncio.wait_for(waiting, 10)


def run_command(database_url: str, *arguments: str, **settings: str) -> Ended:
    ended = subprocess.run(
        [sys.executable, SCRIPT.relative_to(BACKEND), *arguments],
        cwd=BACKEND,
        env=os.environ | defaults() | settings | {"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def defaults() -> dict[str, str]:
    """Every variable: the environment wins over a developer's .env, which must not reach the script."""
    values = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    return {name: it.get_secret_value() if isinstance(it, SecretStr) else str(it) for name, it in values.items()}


def live(sandbox: Sandbox) -> dict[str, object]:
    return {
        "hubspot_enabled": True,
        "hubspot_send_live": True,
        "hubspot_private_app_token": "pat-na1-0",
        "hubspot_portal_id": PORTAL_ID,
        "hubspot_base_url": sandbox.url,
    }


def its_event(engine: Engine, ended: Ended) -> EventSummary:
    found = re.search(r"created event (\S+)", ended.words)
    assert found, ended
    with engine.connect() as connection:
        [event] = read_events(connection, OUTBOX, [UUID(found[1])])
    return event


def count_events(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(OUTBOX.events.c.id)).all())


def claim_as_another_worker(engine: Engine) -> list[Event]:
    with engine.begin() as connection:
        return Scan(OUTBOX).claim(connection, types=CATALOG.types, token="another", lease=LEASE, limit=50)
