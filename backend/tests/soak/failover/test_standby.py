"""The primary is killed under load, and its standby promoted: a synchronous one has all that was answered."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy import Engine, create_engine

from app.settings import normalise_database_url
from hubspot_sandbox import Sandbox
from sqlalchemy_outbox.enqueueing.enqueue import EVENTS_LOST
from sqlalchemy_outbox.testing import RecordingDestination
from tests.conftest import wait_for_replica
from tests.outbox.conftest import METADATA, OUTBOX
from tests.outbox.queue import Queue
from tests.outbox.test_way_to_listen import worker_that_listens_by
from tests.outbox.test_worker import eventually, running
from tests.postgres import Cluster, run_pair
from tests.soak.chaos.faults import Fault, Kind
from tests.soak.chaos.fleet import Fleet
from tests.soak.chaos.history import History
from tests.soak.chaos.load import Load
from tests.soak.failover.conftest import LOAD_SECONDS, earned
from tests.soak.test_chaos import Report, await_drained

# What an asynchronous standby lacks when its primary is killed.
_LAG_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """`url` leads to whichever of the two takes writes."""

    primary: Cluster
    standby: Cluster

    @property
    def url(self) -> str:
        hosts = ",".join(cluster.url.rpartition("@")[2] for cluster in (self.primary, self.standby))
        return normalise_database_url(f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write")

    def follow_synchronously(self) -> None:
        with _connect(self.primary) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        _await(self.primary, "SELECT sync_state = 'sync' FROM pg_stat_replication")

    def fail_over(self) -> tuple[float, float]:
        """When the primary was killed, and when the other took its place."""
        killed_at = time.time()
        self.primary.kill()
        with _connect(self.standby) as connection:
            connection.execute("SELECT pg_promote()")
        return killed_at, time.time()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with run_pair() as (primary, standby):
        yield Pair(primary, standby)


@pytest.fixture
def url(pair: Pair) -> str:
    return pair.url


def test_nothing_is_lost_reordered_or_stuck_when_the_primary_of_a_synchronous_standby_is_killed(
    pair: Pair, engine: Engine, load: Load, sandbox: Sandbox, fleet: Fleet, report: Report
) -> None:
    pair.follow_synchronously()
    lost_before = EVENTS_LOST._value.get()
    with load.running():
        time.sleep(LOAD_SECONDS)
        killed_at, promoted_at = pair.fail_over()
        time.sleep(LOAD_SECONDS)
    await_drained(engine, fleet)
    load.touch_everyone()
    await_drained(engine, fleet)
    objections = fleet.end()
    everyone = frozenset(worker.name for worker in fleet.present)
    history = History.read(engine, load, [Fault(Kind.RESTART, everyone, killed_at, promoted_at + 1)])
    objections += [*history.objections(), *load.objections()]
    assert not objections, "\n".join(objections[:20])
    assert earned(sandbox) == load.reached()
    assert EVENTS_LOST._value.get() == lost_before
    figures = history.figures() | seconds(history, killed_at, promoted_at)
    report("the primary of a synchronous standby is killed", figures)


def test_what_an_asynchronous_standby_lacked_is_lost_with_its_rows_and_all_else_is_delivered(
    pair: Pair, engine: Engine, load: Load, sandbox: Sandbox, fleet: Fleet, report: Report
) -> None:
    """HubSpot may have been told of what is lost, and is ahead until the driver's next event."""
    with load.running():
        time.sleep(LOAD_SECONDS)
        stop_sending(pair.primary)
        time.sleep(_LAG_SECONDS)
        killed_at, promoted_at = pair.fail_over()
        known = earned(sandbox)
        ahead = {subject for subject, n in load.reached().items() if known.get(subject, 0) > n}
        time.sleep(LOAD_SECONDS)
    await_drained(engine, fleet)
    load.touch_everyone()
    await_drained(engine, fleet)
    objections = fleet.end()
    history = History.read(engine, load, [])
    lost = history.lost()
    objections += [*history.about_what_exists(), *load.objections()]
    assert not objections, "\n".join(objections[:20])
    assert lost
    assert ahead
    assert earned(sandbox) == load.reached()
    lack = {
        f"events that were answered and are lost, {_LAG_SECONDS:g} s behind": len(lost),
        "drivers of whom HubSpot was ahead": len(ahead),
    }
    figures = history.figures() | lack | seconds(history, killed_at, promoted_at)
    report("the primary of an asynchronous standby is killed", figures)


async def test_worker_claims_nothing_of_a_former_primary_that_its_way_to_listen_still_leads_to(pair: Pair) -> None:
    """It is up, and knows nothing of the one that was promoted: what it has is delivered by nobody."""
    METADATA.create_all(former := create_engine(f"{pair.primary.url}/postgres"))
    elsewhere = Queue(former, OUTBOX)
    (id_,) = elsewhere.put("a")
    wait_for_replica(pair.primary.url, pair.standby.url)
    with _connect(pair.standby) as connection:
        connection.execute("SELECT pg_promote()")
    engine = create_engine(f"{pair.standby.url}/postgres")
    queue, recorder = Queue(engine, OUTBOX), RecordingDestination()
    async with running(worker_that_listens_by(f"{pair.primary.url}/postgres", queue, recorder)):
        await eventually(lambda: queue.row(id_).processed_at is not None)
    assert elsewhere.row(id_).claim_token is None
    assert len(recorder.events) == 1
    engine.dispose()
    former.dispose()


def seconds(history: History, killed_at: float, promoted_at: float) -> dict[str, object]:
    goes_on_at = min(move.at for move in history.moves if move.is_delivered and move.at > promoted_at)
    return {
        "seconds from the kill to the promotion": round(promoted_at - killed_at, 2),
        "seconds from the promotion to the next delivery": round(goes_on_at - promoted_at, 2),
    }


def stop_sending(primary: Cluster) -> None:
    """Nothing that the primary writes from now on reaches its standby."""
    with _connect(primary) as connection:
        sender = connection.execute("SELECT pid FROM pg_stat_replication").fetchone()
    assert sender is not None
    os.kill(sender[0], signal.SIGSTOP)


def _connect(cluster: Cluster) -> psycopg.Connection:
    return psycopg.connect(cluster.url.replace("+psycopg", "") + "/postgres", autocommit=True)


def _await(cluster: Cluster, question: str) -> None:
    deadline = time.monotonic() + 30
    with _connect(cluster) as connection:
        while connection.execute(question).fetchone() != (True,):
            assert time.monotonic() < deadline, question
            time.sleep(0.05)
