"""Whatever a server, a database or a role has set: events travel, and what is read is what was written."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, create_engine, literal, make_url, select, text
from typer.testing import CliRunner, Result

from app.cli import cli
from app.events import CATALOG
from app.main import create_app
from app.models import OUTBOX
from app.otp import OneTimeCode
from app.settings import OPERATOR_PAGE, Settings
from sqlalchemy_outbox.clock import Instant, SecondsUntil
from sqlalchemy_outbox.outcome import Delivered, Retry
from tests.conftest import migrate
from tests.outbox.queue import Queue

SETTINGS = {
    "datestyle": ("German", "SQL, DMY", "SQL, MDY", "Postgres, MDY", "Postgres, DMY", "ISO, YMD"),
    "intervalstyle": ("sql_standard", "postgres_verbose", "iso_8601"),
    "timezone": ("<-0330>+3:30", "Asia/Kathmandu", "Pacific/Apia", "America/New_York"),
    "standard_conforming_strings": ("off",),
    "client_encoding": ("LATIN1", "WIN1251", "EUC_JP"),
    "bytea_output": ("escape",),
    "extra_float_digits": ("-15", "3"),
    "xmlbinary": ("hex",),
    "lc_messages": ("C",),
    "array_nulls": ("off",),
    "transform_null_equals": ("on",),
    "quote_all_identifiers": ("on",),
    "backslash_quote": ("off",),
    "plan_cache_mode": ("force_generic_plan",),
}
ALL_AT_ONCE = {name: values[0] for name, values in SETTINGS.items()}
EACH = [{name: value} for name, values in SETTINGS.items() for value in values]
SERVICE_KEY, TOKEN = "charging-network-key", "operators-token-of-the-tests"
HAPPENED_AT = datetime(2026, 11, 24, 7, 40, 2, 123000, tzinfo=UTC)
# Beyond Latin-1, so that no encoding of a session has all of it.
NAME = "Żółć Жук 充電 \\ ' $1 %s"

pytestmark = pytest.mark.usefixtures("_quiet_log")


@pytest.fixture
def _quiet_log() -> Iterator[None]:
    yield
    _forget_log_handlers()


def _forget_log_handlers() -> None:
    for handler in [it for it in logging.getLogger().handlers if it.name == "hubspot_sync"]:
        logging.getLogger().removeHandler(handler)


def have(url: str, settings: Mapping[str, str], *, of: str = "DATABASE {database}") -> None:
    """Every session that begins from now on has these settings."""
    engine = create_engine(url)
    whose = of.format(database=make_url(url).database)
    with engine.begin() as connection:
        for name, value in settings.items():
            quoted = value if name == "search_path" or "," in value else "'" + value + "'"
            connection.execute(text(f"ALTER {whose} SET {name} = {quoted}".replace(":", "\\:")))
    engine.dispose()


def run(url: str, *arguments: str) -> Result:
    environment = {"DATABASE_URL": url, "HUBSPOT_ENABLED": "true", "COLUMNS": "200"}
    try:
        return CliRunner().invoke(cli, arguments, env=environment)
    finally:
        _forget_log_handlers()


def run_json(url: str, *arguments: str) -> Any:
    ran = run(url, *arguments, "--json")
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


def is_recent(moment: str) -> bool:
    return abs(datetime.fromisoformat(moment) - datetime.now(UTC)) < timedelta(minutes=1)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def travel(url: str) -> None:
    """An event's whole way, from a route to the page and the command line, with all that befalls it."""
    codes: list[OneTimeCode] = []
    settings = Settings(
        _env_file=None,
        database_url=url,
        hubspot_enabled=True,
        charger_service_key=SERVICE_KEY,
        operator_token=TOKEN,
    )
    with TestClient(create_app(settings, codes.append)) as http:
        started = http.post("/v1/auth/otp/start", json={"email": "ada@example.com"}).raise_for_status().json()
        signed_in = (
            http.post("/v1/auth/otp/verify", json={"challenge_id": started["challenge_id"], "code": codes[0].code})
            .raise_for_status()
            .json()
        )
        grant = {
            "session_id": "session",
            "driver_id": signed_in["driver_id"],
            "energy_kwh": "7.78",
            "ended_at": HAPPENED_AT.isoformat(),
        }
        key = {"X-Service-Key": SERVICE_KEY}
        for _ in range(2):
            assert http.post("/v1/nova/grants", json=grant, headers=key).is_success
        wallet = http.get("/v1/wallet", headers={"Authorization": f"Bearer {signed_in['access_token']}"})
        assert wallet.raise_for_status().json()["balance"] == 78
        wait_until(lambda: run_json(url, "status")["delivered"] == 2)
        _look_at_page(http)
        assert http.get("/readyz").json()["worker"]["state"] == "running"
        metrics = http.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert "outbox_events" in metrics.raise_for_status().text
    _run_commands(url)


def _look_at_page(http: TestClient) -> None:
    page = OPERATOR_PAGE
    origin = {"Origin": "http://testserver"}
    assert http.post(f"{page}/sign-in", data={"name": "Ada", "token": TOKEN}, headers=origin).is_success
    events = http.get(f"{page}/events").raise_for_status().text
    times = re.findall(r'datetime="([^"]+)"', events)
    assert times
    assert all(is_recent(it) for it in times)
    [first, *_] = re.findall(rf'href="({page}/events/[0-9a-f-]+)"', events)
    for path in (f"{page}/", first, f"{page}/audit", f"{page}/contact?subject=x"):
        assert http.get(path).status_code == 200, path


def _run_commands(url: str) -> None:
    events = run_json(url, "events")["events"]
    assert len(events) == 2
    for event in events:
        assert is_recent(event["created_at"])
        assert is_recent(event["processed_at"])
        shown = run_json(url, "show", event["event_id"])
        assert all(is_recent(it["at"]) for it in shown["audit"])
    assert run(url, "hold", f"because {NAME}").exit_code == 0
    assert run_json(url, "status")["gate"]["reason"] == f"because {NAME}"
    assert run(url, "release").exit_code == 0
    audit = run_json(url, "audit")["entries"]
    assert [it["action"] for it in audit] == ["release", "hold"]
    assert audit[1]["reason"] == f"because {NAME}"
    assert all(is_recent(it["at"]) for it in audit)
    assert run_json(url, "events", "--older-than", "1h")["events"] == []
    assert run_json(url, "events", "--subject", NAME)["events"] == []
    assert run(url, "purge", "--older-than", "1h", "--yes").stdout.strip() == "Deleted: 0 events."
    assert run(url, "worker", "--once").exit_code == 0


def befall(engine: Engine) -> None:
    """What becomes of events by hand and by accident, with subjects that no session's encoding has."""
    queue = Queue(engine, OUTBOX, tuple(CATALOG.types))
    before = datetime.now(UTC) - timedelta(seconds=30)
    (first, second) = queue.put(NAME, "driver-2", event_type="driver_signed_up")
    token, events = queue.claim()
    assert [event.subject for event in events] == [NAME, "driver-2"]
    assert all(before < event.created_at <= datetime.now(UTC) + timedelta(seconds=30) for event in events)
    assert queue.settle(token, events, Retry(f"no: {NAME}")) == {first, second}
    assert queue.row(first).last_error == f"no: {NAME}"
    for _ in range(2):
        queue.pass_time(timedelta(minutes=1))
        queue.claim(limit=1)
        queue.claim(limit=1)
        queue.pass_time(timedelta(minutes=1))
        queue.charge_lost_leases()
    assert queue.row(first).attempt_count == queue.row(second).attempt_count == 3
    queue.retry(first)
    assert queue.discard(second) == 1
    token, events = queue.claim()
    assert [event.id for event in events] == [first]
    assert events[0].retried_at is not None
    assert queue.settle(token, events, Delivered()) == {first}
    assert before - timedelta(minutes=10) < queue.row(first).processed_at < datetime.now(UTC) + timedelta(minutes=1)


@pytest.mark.parametrize("settings", [ALL_AT_ONCE, {"datestyle": "German"}], ids=["all at once", "German"])
def test_events_travel_whatever_a_database_has_set(migrated_postgres_url: str, settings: Mapping[str, str]) -> None:
    have(migrated_postgres_url, settings)
    travel(migrated_postgres_url)


@pytest.mark.parametrize("settings", [ALL_AT_ONCE, *EACH], ids=lambda it: " ".join(it.values()))
def test_whatever_befalls_an_event_is_read_as_it_was_written(
    migrated_postgres_url: str, settings: Mapping[str, str]
) -> None:
    have(migrated_postgres_url, settings)
    engine = create_engine(migrated_postgres_url)
    try:
        befall(engine)
    finally:
        engine.dispose()


def test_role_that_has_set_all_of_it_is_no_exception(migrated_postgres_url: str) -> None:
    role = f"role_{make_url(migrated_postgres_url).database}"
    admin = create_engine(migrated_postgres_url)
    with admin.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN SUPERUSER"))
    have(migrated_postgres_url, ALL_AT_ONCE, of=f"ROLE {role}")
    engine = create_engine(make_url(migrated_postgres_url).set(username=role).render_as_string(hide_password=False))
    try:
        befall(engine)
    finally:
        engine.dispose()
        with admin.begin() as connection:
            connection.execute(text(f"DROP ROLE {role}"))
        admin.dispose()


def test_database_that_has_set_all_of_it_is_migrated(postgres_url: str) -> None:
    have(postgres_url, ALL_AT_ONCE)
    migrate(postgres_url)
    engine = create_engine(postgres_url)
    befall(engine)
    engine.dispose()


def test_search_path_only_says_where_our_tables_are(migrated_postgres_url: str) -> None:
    """Behind a schema that has a table of the system's name, too."""
    engine = create_engine(migrated_postgres_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER SCHEMA public RENAME TO tenant"))
        connection.execute(text("CREATE SCHEMA decoy"))
        for name in ("pg_locks", "pg_database"):
            connection.execute(text(f"CREATE TABLE decoy.{name} (nothing int)"))
    engine.dispose()
    have(migrated_postgres_url, {"search_path": "decoy, tenant, pg_catalog"})
    travel(migrated_postgres_url)


def test_seconds_are_read_exactly(migrated_postgres_url: str) -> None:
    have(migrated_postgres_url, ALL_AT_ONCE)
    engine = create_engine(migrated_postgres_url)
    instant = datetime.now(UTC) + timedelta(seconds=1234.5)
    with engine.connect() as connection:
        seconds = connection.execute(select(SecondsUntil(literal(instant, Instant())))).scalar_one()
    engine.dispose()
    assert 1230 < seconds < 1235
