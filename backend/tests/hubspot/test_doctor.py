"""`doctor` names what is wrong and what to do, and exits 1 exactly if something fails."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, make_url, text

from hubspot_sandbox import Sandbox
from instruments.urls import plain_url
from tests.hubspot.conftest import HubSpot, settings_for
from tests.hubspot.test_command_line import run
from tests.outbox.test_notification_queue import PAGES, fill

pytestmark = pytest.mark.usefixtures("terminal")


@pytest.fixture
def hubspot(engine: Engine, sandbox: Sandbox, live: Sandbox) -> HubSpot:
    hubspot = HubSpot(engine, sandbox, settings_for(sandbox))
    hubspot.provision()
    return hubspot


def examine() -> tuple[int, dict[str, dict[str, Any]]]:
    result = run("doctor", "--json")
    return result.exit_code, {it["name"]: it for it in json.loads(result.stdout)["checks"]}


def test_all_is_well(hubspot: HubSpot) -> None:
    code, checks = examine()
    assert {name: it["finding"] for name, it in checks.items() if it["finding"] != "pass"} == {}
    assert code == 0
    expected = {"settings", "database", "clock", "backlog", "gate", "token", "portal", "scopes", "daily limit"}
    assert set(checks) == expected | {"properties"}
    assert "12345678" in checks["portal"]["detail"]
    assert "US/Eastern" in checks["daily limit"]["detail"]
    said = run("doctor").output
    assert "pass  token" in said
    assert re.search(r"^pass  clock: within \d+\.\d s of the database's$", said, re.MULTILINE)
    assert re.search(r"^pass  clock: within \d+\.\d s of HubSpot's$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("fault", "check", "remedy"),
    [
        ({"kind": "revoked"}, "token", "HUBSPOT_PRIVATE_APP_TOKEN"),
        ({"kind": "wrong_portal"}, "portal", "set the token or the portal"),
        ({"kind": "down"}, "hubspot", "network"),
        ({"kind": "no_such_path"}, "token", "HUBSPOT_API_VERSION"),
    ],
)
def test_what_hubspot_refuses_fails_with_its_remedy(
    hubspot: HubSpot, fault: dict[str, Any], check: str, remedy: str
) -> None:
    hubspot.sandbox.faults.add(**fault)
    code, checks = examine()
    assert code == 1
    assert checks[check]["finding"] == "fail"
    assert remedy in checks[check]["remedy"]


def test_scopes_that_cannot_be_asked_are_a_warning(hubspot: HubSpot) -> None:
    hubspot.sandbox.faults.add("custom", status=404, path="/oauth/")
    code, checks = examine()
    assert code == 0
    assert checks["scopes"]["finding"] == "warn"
    assert "crm.objects.contacts.write" in checks["scopes"]["remedy"]


def test_account_that_was_not_provisioned_fails(hubspot: HubSpot) -> None:
    hubspot.sandbox.reset()
    code, checks = examine()
    assert code == 1
    assert checks["properties"]["remedy"] == "run `provision`"


def test_backlog_that_no_worker_takes_fails_and_one_while_disabled_is_a_warning(
    hubspot: HubSpot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubspot.sign_up("driver-1")
    backlog = examine()[1]["backlog"]
    assert (backlog["finding"], backlog["detail"].partition(",")[0]) == ("pass", "1 event waits")
    hubspot.queue.pass_time(timedelta(minutes=5))
    code, checks = examine()
    assert code == 1
    assert "no worker takes them" in checks["backlog"]["detail"]
    monkeypatch.setenv("HUBSPOT_ENABLED", "false")
    code, checks = examine()
    assert code == 0
    assert checks["backlog"]["finding"] == "warn"


def test_hold_fails_with_its_reason(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.sandbox.faults.add("missing_scopes", path="/batch/upsert")
    hubspot.deliver()
    code, checks = examine()
    assert code == 1
    assert "crm.objects.contacts.write" in checks["gate"]["detail"]


def test_database_that_was_not_migrated_fails_without_asking_hubspot(hubspot: HubSpot, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    before = len(hubspot.sandbox.requests())
    code, checks = examine()
    assert code == 1
    assert "0001" in checks["database"]["detail"]
    assert len(hubspot.sandbox.requests()) == before


def test_provisioning_writes_to_no_account_but_the_one_that_was_meant(
    hubspot: HubSpot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubspot.sandbox.reset()
    monkeypatch.setenv("HUBSPOT_PORTAL_ID", "999")
    result = run("provision")
    assert result.exit_code == 1
    assert "12345678" in result.output
    assert run("provision", "--plan").exit_code == 0
    assert all(it["method"] == "GET" for it in hubspot.sandbox.requests())


def test_doctor_looks_at_indexes_and_at_the_queue_of_notifications(
    hubspot: HubSpot, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", migrated_postgres_url)
    url = plain_url(make_url(migrated_postgres_url))
    with psycopg.connect(url, autocommit=True) as holding, psycopg.connect(url, autocommit=True) as filling:
        filling.execute("DROP INDEX ix_outbox_events_open")
        for statement in ("LISTEN elsewhere", "BEGIN", "SELECT 1"):
            holding.execute(statement)
        with suppress(psycopg.errors.ProgramLimitExceeded):
            fill(filling)
        checks = examine()[1]
        assert checks["indexes"]["detail"] == "ix_outbox_events_open is missing"
        if filling.execute("SELECT current_setting('max_notify_queue_pages', true)").fetchone() == (str(PAGES),):
            assert "pg_stat_activity" in checks["notifications"]["remedy"]
    with psycopg.connect(url, autocommit=True) as freeing:
        freeing.execute("SELECT pg_notification_queue_usage()")


def test_rules_on_the_values_of_our_properties_are_told_before_an_event_breaks_one(hubspot: HubSpot) -> None:
    rules = {"ALPHANUMERIC": ["NUMERIC_ONLY"], "MAX_LENGTH": ["5"]}
    hubspot.sandbox.change(rules={"validations": {"nerava_user_id": rules, "zip": {"MAX_LENGTH": ["5"]}}})
    code, checks = examine()
    check = checks["validation rules"]
    assert (code, check["finding"]) == (0, "warn")
    assert check["detail"] == "nerava_user_id: ALPHANUMERIC (NUMERIC_ONLY), MAX_LENGTH (5)"
    assert "an event that breaks one fails" in check["remedy"]


def test_rules_that_cannot_be_read_are_unknown_and_those_of_older_versions_are_no_matter(
    hubspot: HubSpot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubspot.sandbox.faults.add("no_such_path", path="property-validations")
    assert examine()[1]["validation rules"]["finding"] == "warn"
    monkeypatch.setenv("HUBSPOT_API_VERSION", "2026-03")
    assert "validation rules" not in examine()[1]
