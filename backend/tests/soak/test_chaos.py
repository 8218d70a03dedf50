"""Chaos on real processes: whatever breaks, every promise is kept, and what is repeated was in flight at a fault.

CHAOS_SEED plays the same faults again; CHAOS_SECONDS says for how long they come.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import SystemRandom
from uuid import UUID

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.database import create_database_engine
from app.services.hubspot import track_event
from hubspot_sandbox import Sandbox
from sqlalchemy_outbox.enqueueing.enqueue import EVENTS_LOST, enqueue
from sqlalchemy_outbox.lease import REQUEST_DEADLINE
from sqlalchemy_outbox.operating.status import read_status
from tests.conftest import migrate
from tests.hubspot.conftest import HubSpot, environment_for, settings_for
from tests.outbox.conftest import METADATA, OUTBOX
from tests.outbox.queue import TYPES
from tests.postgres import Cluster, run_cluster
from tests.soak.chaos.deliveries import Deliveries
from tests.soak.chaos.destination import run_destination
from tests.soak.chaos.faults import Chaos, draw_plan
from tests.soak.chaos.fleet import Fleet, run_fleet
from tests.soak.chaos.history import History, note_moves
from tests.soak.chaos.load import Load

# A lease, the backoffs of an event that lost it twice, and a machine that has other things to do.
_DRAIN_SECONDS = 120

Report = Callable[[str, Mapping[str, object]], None]


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("CHAOS_SEED") or SystemRandom().randrange(2**32))


@pytest.fixture
def seconds() -> float:
    return float(os.environ.get("CHAOS_SECONDS") or 22)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL that may crash without harm to other tests."""
    with run_cluster() as cluster:
        yield cluster


@pytest.fixture
def database_url(cluster: Cluster) -> str:
    return f"{cluster.url}/postgres"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_database_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Report:
    """Prints figures, also those of a test that passes, and also where several processes run tests."""

    def print_figures(title: str, figures: Mapping[str, object]) -> None:
        with capfd.disabled():
            lines = [f"\n{title}", *(f"  {name}: {figure}" for name, figure in figures.items())]
            print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201

    return print_figures


def await_drained(engine: Engine, fleet: Fleet) -> float:
    """Return once no event is open; how long that took."""
    began_at = time.monotonic()
    while (took := time.monotonic() - began_at) < _DRAIN_SECONDS:
        with engine.connect() as connection:
            status = read_status(connection, OUTBOX)
        if status.pending + status.claimed == 0:
            return took
        time.sleep(0.1)
    pytest.fail(f"not drained: {status}\n{fleet.last_words()}")


def live_through(chaos: Chaos, load: Load, seed: int, seconds: float) -> dict[str, object]:
    """Everything that breaks, under load, until all events are delivered; figures of the fleet."""
    lost_before = EVENTS_LOST._value.get()
    with load.running():
        chaos.reign(draw_plan(seed, seconds))
    drained_after = await_drained(load.engine, chaos.fleet)
    # The last word on each driver is sent when nothing is under way that could arrive after it.
    load.touch_everyone()
    await_drained(load.engine, chaos.fleet)
    assert EVENTS_LOST._value.get() == lost_before
    return {
        "faults": dict(Counter(it.kind.value for it in chaos.faults)),
        "seconds from the last fault to an empty queue": round(drained_after, 1),
    }


def said_by(fleet: Fleet) -> dict[str, object]:
    return {
        "outcomes that came after a lost lease, events": fleet.count_lost_leases(),
        "connections that a worker gave up": fleet.count_given_up(),
    }


def track_plainly(session: Session, subject: str, n: int) -> UUID:
    return enqueue(session, OUTBOX, TYPES[0], subject, {"n": n})


def track_earned(session: Session, subject: str, n: int) -> UUID:
    earned = {"user_id": subject, "amount": 1, "earned_at": "2026-11-24T19:00:00Z", "lifetime_earned": n}
    has_email = int(subject.removeprefix("driver-")) % 3 > 0
    return track_event(session, "nova_earned", earned | ({"email": f"{subject}@example.com"} if has_email else {}))


def test_every_promise_is_kept_whatever_breaks(
    cluster: Cluster, database_url: str, engine: Engine, tmp_path: Path, seed: int, seconds: float, report: Report
) -> None:
    METADATA.create_all(engine)
    note_moves(engine)
    load = Load(engine, seed, "n", track_plainly)
    load.prepare()
    command = ["-m", "tests.soak.chaos.worker"]
    with run_destination(seed) as destination:
        environment = {"DESTINATION_URL": destination.url}
        with run_fleet(database_url, tmp_path, command, environment) as fleet:
            chaos = Chaos(fleet, cluster, engine, destination.be_late, seed)
            figures = live_through(chaos, load, seed, seconds)
            objections = fleet.end()
    history = History.read(engine, load, chaos.faults)
    deliveries = Deliveries(destination.journal, destination.state, history)
    objections += [*history.objections(), *deliveries.objections(), *load.objections()]
    figures |= history.figures() | deliveries.figures() | said_by(fleet) | {"objections": len(objections)}
    report(f"chaos, seed {seed}, {seconds:g} s of faults", figures)
    assert not objections, f"seed {seed}, {len(objections)} objections:\n" + "\n".join(objections[:20])


def test_contacts_are_right_whatever_breaks(
    cluster: Cluster, database_url: str, engine: Engine, tmp_path: Path, seed: int, seconds: float, report: Report
) -> None:
    """The same with the application's own worker, and the sandbox as HubSpot."""
    migrate(database_url)
    note_moves(engine)
    load = Load(engine, seed, "lifetime_earned", track_earned)
    load.prepare()
    with Sandbox(seed=seed, rate_max=100_000) as sandbox:
        HubSpot(engine, sandbox, settings_for(sandbox)).provision()
        environment = environment_for(sandbox)

        def be_late(requests: int) -> None:
            sandbox.faults.clear()
            if requests:
                sandbox.faults.add("slow", requests=requests, delay=REQUEST_DEADLINE.total_seconds() + 1)

        with run_fleet(database_url, tmp_path, ["-m", "app.cli", "worker"], environment) as fleet:
            chaos = Chaos(fleet, cluster, engine, be_late, seed)
            figures = live_through(chaos, load, seed, seconds)
            objections = fleet.end()
        contacts = {it["properties"]["nerava_user_id"]: it["properties"] for it in sandbox.contacts()}
    history = History.read(engine, load, chaos.faults)
    objections += [*history.objections(), *load.objections()]
    earned = {subject: int(it["nerava_lifetime_earned"]) for subject, it in contacts.items()}
    if earned != load.reached():
        objections.append(f"HubSpot has {earned}, and must have {load.reached()}")
    figures |= history.figures() | said_by(fleet) | {"contacts": len(contacts), "objections": len(objections)}
    report(f"chaos with HubSpot, seed {seed}, {seconds:g} s of faults", figures)
    assert not objections, f"seed {seed}, {len(objections)} objections:\n" + "\n".join(objections[:20])
