"""What is measured is what happened, in few series, and a scrape fails kindly."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, MetaData, text

from app.database import create_database_engine
from app.models import OUTBOX
from hubspot_sync.answer import Answer
from hubspot_sync.telemetry import Exposition, note_answer, note_settled
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import define_outbox
from tests.conftest import BACKEND
from tests.hubspot.conftest import HubSpot, settings_for

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
OUTBOX_LABEL = {"outbox": "outbox_events"}
UPSERT = {"method": "POST", "endpoint": "contacts/batch/upsert"}


def parsed(content: str) -> Samples:
    return {
        (it.name, frozenset(it.labels.items())): it.value
        for family in text_string_to_metric_families(content)
        for it in family.samples
    }


def scrape(engine: Engine, deadline: timedelta = timedelta(seconds=30)) -> Samples:
    content, _ = Exposition(engine, OUTBOX, deadline=deadline).text()
    return parsed(content.decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


class Growth:
    """By how much a counter has grown since: the counters are those of the whole process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._before = scrape(engine)

    def __call__(self, name: str, **labels: str) -> float:
        return value(scrape(self._engine), name, **labels) - value(self._before, name, **labels)


def test_events_are_counted_from_their_commit_to_what_becomes_of_them(hubspot: HubSpot) -> None:
    growth = Growth(hubspot.engine)
    hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.earn("driver-1", 10)
    hubspot.track("no_such_event", {"user_id": "driver-1"})
    hubspot.sign_up("driver-2", email="no address for hubspot @ all")
    hubspot.sandbox.faults.add("input_refused", requests=1, code="INVALID_EMAIL")
    hubspot.deliver()
    hubspot.deliver()
    enqueued = "outbox_events_enqueued_total"
    assert growth(enqueued, **OUTBOX_LABEL, event_type="driver_signed_up") == 1
    assert growth(enqueued, **OUTBOX_LABEL, event_type="undeliverable") == 2
    samples = scrape(hubspot.engine)
    failed = value(samples, "outbox_events", **OUTBOX_LABEL, state="failed")
    delivered = growth("outbox_events_delivered_total", **OUTBOX_LABEL)
    assert delivered + failed == 4
    assert growth("outbox_events_failed_total", **OUTBOX_LABEL) == failed - 2
    assert growth("outbox_attempts_total", **OUTBOX_LABEL, outcome="delivered") == delivered
    assert growth("outbox_attempts_total", **OUTBOX_LABEL, outcome="failed") == failed - 2
    assert growth("outbox_delivery_latency_seconds_count", **OUTBOX_LABEL) == delivered
    assert not any("event_type" in dict(labels) and "no_such_event" in dict(labels).values() for _, labels in samples)


def test_latency_runs_from_the_commit_by_the_databases_clock(hubspot: HubSpot) -> None:
    growth = Growth(hubspot.engine)
    hubspot.sign_up("driver-1")
    hubspot.queue.pass_time(timedelta(hours=2))
    hubspot.deliver()
    assert growth("outbox_delivery_latency_seconds_sum", **OUTBOX_LABEL) == pytest.approx(7200, abs=60)
    assert growth("outbox_delivery_latency_seconds_bucket", **OUTBOX_LABEL, le="3600.0") == 0
    assert growth("outbox_delivery_latency_seconds_bucket", **OUTBOX_LABEL, le="14400.0") == 1


def test_dry_run_delivers_nothing(hubspot: HubSpot) -> None:
    hubspot.settings = settings_for(hubspot.sandbox, hubspot_send_live=False)
    growth = Growth(hubspot.engine)
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    assert growth("outbox_attempts_total", **OUTBOX_LABEL, outcome="dry_run") == 1
    assert growth("outbox_events_delivered_total", **OUTBOX_LABEL) == 0
    assert growth("outbox_delivery_latency_seconds_count", **OUTBOX_LABEL) == 0


def test_requests_are_counted_by_endpoint_status_and_category(hubspot: HubSpot) -> None:
    growth = Growth(hubspot.engine)
    hubspot.sign_up("driver-1")
    hubspot.sandbox.faults.add("throttle", requests=1, path="upsert")
    hubspot.deliver()
    hubspot.queue.pass_time(timedelta(minutes=1))
    hubspot.deliver()
    hubspot.earn("driver-1", 10)
    hubspot.sandbox.faults.add("down", path="upsert")
    hubspot.deliver()
    requests = "hubspot_requests_total"
    assert growth(requests, **UPSERT, status="429", category="TEN_SECONDLY_ROLLING") == 1
    assert growth(requests, **UPSERT, status="200", category="none") == 1
    assert growth(requests, **UPSERT, status="none", category="none") >= 1
    answered_or_not = sum(it["path"].endswith("batch/upsert") for it in hubspot.sandbox.requests())
    assert growth("hubspot_request_duration_seconds_count", **UPSERT) == answered_or_not
    assert growth("outbox_attempts_total", **OUTBOX_LABEL, outcome="postponed") >= 1


def test_the_days_budget_is_what_hubspot_said_last(hubspot: HubSpot) -> None:
    hubspot.sandbox.change(requests_per_day=1000)
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    samples = scrape(hubspot.engine)
    used = len(hubspot.sandbox.requests())
    assert value(samples, "hubspot_requests_limit", window="day") == 1000
    assert value(samples, "hubspot_requests_left", window="day") == 1000 - used


def test_gate_and_backlog_are_read_at_each_scrape(hubspot: HubSpot) -> None:
    hubspot.sign_up("driver-1")
    hubspot.queue.pass_time(timedelta(minutes=10))
    operations.hold(hubspot.engine, OUTBOX, "maintenance", by="cli:ada")
    samples = scrape(hubspot.engine)
    assert value(samples, "outbox_events", **OUTBOX_LABEL, state="pending") == 1
    assert value(samples, "outbox_oldest_pending_seconds", **OUTBOX_LABEL) == pytest.approx(600, abs=60)
    states = {it: value(samples, "outbox_gate_state", **OUTBOX_LABEL, state=it) for it in ("open", "throttled", "held")}
    assert states == {"open": 0, "throttled": 0, "held": 1}
    operations.release(hubspot.engine, OUTBOX, by="cli:ada")
    hubspot.deliver()
    samples = scrape(hubspot.engine)
    assert value(samples, "outbox_oldest_pending_seconds", **OUTBOX_LABEL) == 0
    assert value(samples, "outbox_gate_state", **OUTBOX_LABEL, state="open") == 1


def test_category_that_hubspot_invents_makes_no_series_of_its_own(engine: Engine) -> None:
    for number in range(50):
        body = {"category": f"NEW_{number}", "message": "no"}
        note_answer("GET", "account/details", Answer(400, {}, body), timedelta(0))
    labels = [dict(it) for name, it in scrape(engine) if name == "hubspot_requests_total"]
    assert {it["category"] for it in labels if it["status"] == "400" and it["method"] == "GET"} == {"other"}


def test_two_outboxes_are_told_apart(engine: Engine) -> None:
    for name in ("parcels", "letters", "parcels"):
        note_settled(define_outbox(MetaData(), name))
    samples = scrape(engine)
    for name in ("parcels", "letters"):
        assert ("outbox_events_delivered_total", frozenset({("outbox", name)})) in samples


@contextmanager
def busy(engine: Engine) -> Iterator[None]:
    """The outbox is locked by somebody who does not let go."""
    with engine.connect() as connection:
        # On SQLite every transaction keeps others out.
        connection.execute(text("LOCK TABLE outbox_events" if engine.dialect.name == "postgresql" else "SELECT 1"))
        yield


@pytest.mark.parametrize("url", ["migrated_sqlite_url", "migrated_postgres_url"])
def test_outbox_that_does_not_answer_costs_a_scrape_its_deadline_and_its_gauges_only(
    url: str, request: pytest.FixtureRequest
) -> None:
    engine, other = (create_database_engine(request.getfixturevalue(url)) for _ in range(2))
    exposition = Exposition(engine, OUTBOX, deadline=timedelta(milliseconds=200))
    with busy(other):
        began_at = time.monotonic()
        samples = [parsed(exposition.text()[0].decode()) for _ in range(3)]
        assert time.monotonic() - began_at < 4
    for it in samples:
        assert value(it, "outbox_readable", **OUTBOX_LABEL) == 0
        assert "outbox_oldest_pending_seconds" not in {name for name, _ in it}
        assert "outbox_events_lost_total" in {name for name, _ in it}
    eventually(lambda: value(parsed(exposition.text()[0].decode()), "outbox_readable", **OUTBOX_LABEL) == 1)
    engine.dispose()
    other.dispose()


def test_missing_table_is_told_by_the_scrape(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox_events"))
    assert value(scrape(engine), "outbox_readable", **OUTBOX_LABEL) == 0


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def worker_process(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "worker"],
        cwd=BACKEND,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=30)


def answered(port: int) -> str | None:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    except httpx2.TransportError:
        return None


def test_standalone_worker_shows_what_it_delivered_on_its_port_and_goes_on_when_it_is_taken(
    hubspot: HubSpot, database_url: str
) -> None:
    port = free_port()
    environment = {
        "DATABASE_URL": database_url,
        "HUBSPOT_ENABLED": "true",
        "HUBSPOT_METRICS_PORT": str(port),
    }
    event_id = hubspot.sign_up("driver-1")
    with worker_process(environment) as first:
        eventually(lambda: hubspot.is_delivered(event_id))
        samples = parsed(answered(port) or "")
        assert value(samples, "outbox_attempts_total", **OUTBOX_LABEL, outcome="dry_run") == 1
        with worker_process(environment) as second:
            assert second.stderr is not None
            eventually(lambda: f"HUBSPOT_METRICS_PORT={port} cannot be listened on" in second.stderr.readline())
            eventually(lambda: "HubSpot sync worker started" in second.stderr.readline())
        assert second.returncode == 0
    assert first.returncode == 0
    assert answered(port) is None


def test_processes_that_share_a_folder_are_counted_together(
    hubspot: HubSpot, database_url: str, tmp_path: Path
) -> None:
    """As `uvicorn --workers` needs it: each scrape is answered by one of the processes, whichever it is."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    environment = {
        "DATABASE_URL": database_url,
        "HUBSPOT_ENABLED": "true",
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
    }
    command = "import sys; from app.cli import cli; cli(['worker', '--once'])"
    for number in range(2):
        hubspot.sign_up(f"driver-{number}")
        subprocess.run([sys.executable, "-c", command], cwd=BACKEND, env=os.environ | environment, check=True)
    script = (
        "from app.integration import load_integration as load; "
        "from hubspot_sync.telemetry import Exposition; it = load(); "
        "print(Exposition(it.engine, it.outbox).text()[0].decode())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=BACKEND, env=os.environ | environment, check=True, stdout=subprocess.PIPE
    )
    samples = parsed(shown.stdout.decode())
    assert value(samples, "outbox_attempts_total", **OUTBOX_LABEL, outcome="dry_run") == 2
    assert value(samples, "outbox_events", **OUTBOX_LABEL, state="pending") == 0
