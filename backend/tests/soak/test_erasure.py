"""Erasures under chaos: once one is done, no byte of the person is left, and none leaves.

CHAOS_SEED plays the same faults again; CHAOS_SECONDS says for how long they come.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from app.database import create_database_engine
from app.main import create_app
from app.models import OUTBOX
from app.otp import OneTimeCode
from app.services.hubspot import track_event
from hubspot_sandbox import Sandbox
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.lease import REQUEST_DEADLINE
from sqlalchemy_outbox.operating.selection import EventFilter
from sqlalchemy_outbox.operating.status import Status
from tests.app.conftest import Hub
from tests.app.conftest import settings_for as app_settings_for
from tests.conftest import migrate
from tests.hubspot.conftest import HubSpot, environment_for, settings_for
from tests.postgres import Cluster, run_cluster
from tests.soak.chaos.faults import Chaos, draw_plan
from tests.soak.chaos.fleet import Fleet, run_fleet
from tests.soak.erasure import search
from tests.soak.erasure.leavers import Leavers
from tests.soak.erasure.recorder import Recorder, recording
from tests.soak.test_chaos import Report, report, seconds, seed

__all__ = ["report", "seconds", "seed"]

KEY = "k" * 32
COMMAND = ["-m", "app.cli", "worker"]
_DONE_SECONDS = 150


@contextmanager
def nerava(url: str) -> Iterator[Hub]:
    """The application, which only stores events, with the key."""
    codes: list[OneTimeCode] = []
    settings = app_settings_for(url).model_copy(update={"hubspot_erasure_key": SecretStr(KEY)})
    with TestClient(create_app(settings, codes.append), raise_server_exceptions=False) as http:
        yield Hub(http, codes)


def speak_without_the_key(engine: Engine) -> Callable[[Mapping[str, object]], None]:
    """As code of an earlier release does: the row is written as it is."""

    def speak(payload: Mapping[str, object]) -> None:
        with engine.begin() as connection:
            OUTBOX.names.use_key("")
            try:
                track_event(connection, "nova_earned", payload)
            finally:
                OUTBOX.names.use_key(KEY)

    return speak


def await_done(engine: Engine, fleet: Fleet) -> None:
    """Return once nothing is open and every erasure is done; a person retries those that have failed."""
    deadline = time.monotonic() + _DONE_SECONDS
    status: Status | None = None
    while time.monotonic() < deadline:
        try:
            status = operations.status(engine, OUTBOX)
            if status.pending + status.claimed + status.forgetting == 0:
                return
            if status.failed:
                [*_] = operations.retry(
                    engine, OUTBOX, EventFilter(event_type="subject_erasure"), ["subject_erasure"], by="soak"
                )
        except DBAPIError:
            pass
        time.sleep(0.2)
    pytest.fail(f"not done: {status}\n{fleet.last_words()}")


def objections_of(engine: Engine, leavers: Leavers, recorder: Recorder, sandbox: Sandbox, folder: Path) -> list[str]:
    """What is left, and what was said and sent after the erasures were done."""
    contacts = [it["properties"] for it in sandbox.contacts()]
    left = {leaver.driver.id for leaver in leavers.left}
    addresses = {leaver.address for leaver in leavers.left}
    found = [
        *search.in_tables(engine, leavers.left),
        *search.in_metrics(engine, leavers.left),
        *search.in_requests(recorder, engine, leavers.left),
        *search.in_logs(folder.glob("*.log"), engine, leavers.left),
    ]
    found += [
        f"HubSpot has a contact of {it.get('nerava_user_id')}" for it in contacts if it.get("nerava_user_id") in left
    ]
    found += [f"HubSpot has a contact of {it.get('email')}" for it in contacts if it.get("email") in addresses]
    return found + [f"a producer ended: {error!r}" for error in leavers.errors]


def figures_of(engine: Engine, leavers: Leavers, recorder: Recorder, objections: list[str]) -> dict[str, object]:
    status = operations.status(engine, OUTBOX)
    return {
        "drivers forgotten": len(leavers.left),
        "refusals kept": status.refused,
        "requests": len(recorder.requests),
        "objections": len(objections),
    }


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with run_cluster() as cluster:
        yield cluster


def test_nothing_of_the_forgotten_is_left_whatever_breaks(
    cluster: Cluster, tmp_path: Path, seed: int, seconds: float, report: Report
) -> None:
    url = f"{cluster.url}/postgres"
    migrate(url)
    engine = create_database_engine(url)
    with Sandbox(seed=seed, rate_max=100_000) as sandbox, recording(sandbox.url) as recorder, nerava(url) as hub:
        HubSpot(engine, sandbox, settings_for(sandbox, hubspot_erasure_key=KEY)).provision()

        def be_late(requests: int) -> None:
            sandbox.faults.clear()
            if requests:
                sandbox.faults.add("slow", requests=requests, delay=REQUEST_DEADLINE.total_seconds() + 1)

        leavers = Leavers(hub, engine, seed, speak_without_the_key(engine))
        with run_fleet(url, tmp_path, COMMAND, environment_for(recorder, HUBSPOT_ERASURE_KEY=KEY)) as fleet:
            chaos = Chaos(fleet, cluster, engine, be_late, seed)
            with leavers.running():
                chaos.reign(draw_plan(seed, seconds))
            await_done(engine, fleet)
            leavers.speak_of_everyone()
            await_done(engine, fleet)
            objections = fleet.end()
        objections += objections_of(engine, leavers, recorder, sandbox, tmp_path)
        operations.vacuum(engine, OUTBOX)
        objections += search.in_dump(cluster.binary("pg_dump"), url.replace("+psycopg", ""), leavers.left)
        figures = figures_of(engine, leavers, recorder, objections)
    engine.dispose()
    report(f"erasures under chaos, seed {seed}, {seconds:g} s of faults", figures)
    assert len(leavers.left) > 10
    assert not objections, f"seed {seed}, {len(objections)} objections:\n" + "\n".join(objections[:20])


@contextmanager
def sqlite_fleet(url: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Fleet]:
    fleet = Fleet([], [url] * 2, folder, COMMAND, environment)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.kill_all()


def kill_some(fleet: Fleet, sandbox: Sandbox, seed: int, seconds: float) -> None:
    """Workers are killed and stopped, and HubSpot resets, throttles and refuses."""
    random = Random(seed)
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        time.sleep(random.uniform(0.5, 2))
        kind = random.choice(("kill", "kill", "stop", "reset_after_applying", "throttle", "bad_gateway", "locked"))
        worker = random.choice(fleet.present)
        if kind == "kill":
            fleet.replace(worker)
        elif kind == "stop":
            worker.signal(signal.SIGSTOP)
            time.sleep(random.uniform(0.2, 1))
            worker.signal(signal.SIGCONT)
        else:
            sandbox.faults.add(kind, requests=random.randint(1, 3))
    sandbox.faults.clear()


def live_on_sqlite(
    tmp_path: Path, seed: int, seconds: float, environment: Mapping[str, str]
) -> tuple[list[str], dict[str, object]]:
    """What is objected to, and the figures."""
    folder = tmp_path / "database"
    folder.mkdir()
    url = f"sqlite:///{folder / 'nerava.db'}"
    migrate(url)
    engine = create_database_engine(url)
    with Sandbox(seed=seed, rate_max=100_000) as sandbox, recording(sandbox.url) as recorder, nerava(url) as hub:
        HubSpot(engine, sandbox, settings_for(sandbox, hubspot_erasure_key=KEY)).provision()
        leavers = Leavers(hub, engine, seed, speak_without_the_key(engine))
        with sqlite_fleet(url, tmp_path, environment_for(recorder, HUBSPOT_ERASURE_KEY=KEY) | environment) as fleet:
            with leavers.running():
                kill_some(fleet, sandbox, seed, seconds)
            await_done(engine, fleet)
            leavers.speak_of_everyone()
            await_done(engine, fleet)
            objections = fleet.end()
        objections += objections_of(engine, leavers, recorder, sandbox, tmp_path)
        figures = figures_of(engine, leavers, recorder, objections)
        engine.dispose()
        objections += search.in_files(engine, leavers.left)
    return objections, figures | {"objections": len(objections)}


def test_no_byte_of_the_forgotten_is_left_in_sqlites_files(
    tmp_path: Path, seed: int, seconds: float, report: Report
) -> None:
    objections, figures = live_on_sqlite(tmp_path, seed, seconds, {})
    report(f"erasures on SQLite, seed {seed}, {seconds:g} s of faults", figures)
    assert not objections, f"seed {seed}, {len(objections)} objections:\n" + "\n".join(objections[:20])


def test_workers_without_the_key_are_found(tmp_path: Path, seed: int, report: Report) -> None:
    """The search bites: they send what an earlier release's code has stored, as its workers would."""
    objections, figures = live_on_sqlite(tmp_path, seed, 3, {"HUBSPOT_ERASURE_KEY": ""})
    report("erasures with workers that lack the key", figures)
    assert any("is about" in objection for objection in objections)
    assert any("HubSpot has a contact" in objection for objection in objections)
