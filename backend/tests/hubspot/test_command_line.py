"""`python -m app.cli`, as a person or a script runs it: what is printed, and the exit code."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from app.cli import cli
from hubspot_sandbox import Sandbox
from tests.hubspot.conftest import HubSpot, settings_for


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Both: what a person sees must not depend on the database."""
    kind = "migrated_sqlite_url" if request.param == "sqlite" else "migrated_postgres_url"
    url: str = request.getfixturevalue(kind)
    return url


@pytest.fixture(autouse=True)
def _this_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)


@pytest.fixture(autouse=True)
def _log_of_each_command_ends_with_it() -> Iterator[None]:
    yield
    for handler in [it for it in logging.getLogger().handlers if it.name == "nerava"]:
        logging.getLogger().removeHandler(handler)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})


@pytest.fixture
def dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOT_ENABLED", "true")


@pytest.fixture
def live(dry_run: None, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setenv("HUBSPOT_SEND_LIVE", "true")
    monkeypatch.setenv("HUBSPOT_BASE_URL", sandbox.url)
    monkeypatch.setenv("HUBSPOT_PRIVATE_APP_TOKEN", "pat-na1-0")
    monkeypatch.setenv("HUBSPOT_PORTAL_ID", "12345678")
    monkeypatch.setenv("HUBSPOT_REQUESTS_PER_SECOND", "100")
    return sandbox


@pytest.fixture
def hubspot(engine: Engine, sandbox: Sandbox) -> HubSpot:
    return HubSpot(engine, sandbox, settings_for(sandbox))


def test_status_counts_events_as_json(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    hubspot.track("no_such_event", {"user_id": "driver-1"})
    status = json.loads(run("status", "--json").stdout)
    assert status.pop("oldest_pending_seconds") >= 0
    assert status == {
        "pending": 1,
        "claimed": 0,
        "delivered": 0,
        "failed": 1,
        "gate": {"state": "open", "until": None, "reason": None, "held_by": None},
    }


def test_status_says_in_words_what_keeps_events_waiting() -> None:
    assert "HUBSPOT_ENABLED=false" in run("status").output


@pytest.mark.usefixtures("dry_run")
def test_worker_once_delivers_what_is_due_and_exits(hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1")
    assert run("worker", "--once").exit_code == 0
    assert hubspot.is_delivered(event_id)


def test_disabled_worker_says_so_and_exits_0(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert run("worker").exit_code == 0
    assert "HubSpot sync worker not started (HUBSPOT_ENABLED=false)" in caplog.messages


@pytest.mark.usefixtures("dry_run")
def test_live_worker_without_a_token_says_what_to_set_and_exits_1(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HUBSPOT_SEND_LIVE", "true")
    assert run("worker").exit_code == 1
    assert "HUBSPOT_PRIVATE_APP_TOKEN and HUBSPOT_PORTAL_ID are empty" in caplog.text
    assert "HUBSPOT_PRIVATE_APP_TOKEN and HUBSPOT_PORTAL_ID are empty" in run("status").output


def test_account_is_planned_then_provisioned_then_delivered_to(live: Sandbox, hubspot: HubSpot) -> None:
    event_id = hubspot.sign_up("driver-1", email="ada@example.com")
    held = run("worker", "--once")
    assert held.exit_code == 1
    assert "run `provision`" in held.output
    assert "held" in run("status").output
    assert "create property nerava_user_id (string, unique)" in run("provision", "--plan").output
    assert run("provision").exit_code == 0
    assert "nothing to do" in run("provision").output
    assert run("worker", "--once").exit_code == 0
    assert hubspot.is_delivered(event_id)
    assert live.contact(email="ada@example.com") is not None


def test_retry_makes_failed_events_pending_and_names_those_that_were_not(hubspot: HubSpot) -> None:
    failed: UUID = hubspot.track("nova_earned", {"user_id": "driver-1"})
    of_no_known_type = hubspot.track("no_such_event", {"user_id": "driver-1"})
    unknown = uuid4()
    result = run("retry", str(failed), str(unknown), str(of_no_known_type))
    assert result.exit_code == 1
    assert f"{failed}  pending again" in result.output
    assert f"{unknown}  left alone" in result.output
    assert f"{of_no_known_type}  left alone" in result.output
    assert run("retry", str(failed)).exit_code == 1


def test_missing_table_is_named_with_the_remedy(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox_events"))
    for command in (["status"], ["retry", str(uuid4())]):
        result = run(*command)
        assert result.exit_code == 1
        assert "migrated to head" in result.output


def test_unreachable_hubspot_ends_provisioning_with_one_line(live: Sandbox) -> None:
    live.faults.add("down")
    result = run("provision")
    assert result.exit_code == 1
    assert result.output.strip().splitlines()[-1] == "GET /account-info/2026-09/details: ReadError"
    assert "Traceback" not in result.output


def test_setting_that_makes_no_sense_is_named_with_what_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOT_BATCH_SIZE", "0")
    result = run("status")
    assert result.exit_code == 1
    assert result.output.strip() == "HUBSPOT_BATCH_SIZE: Input should be greater than or equal to 1"
