"""A database is moved with PostgreSQL's own means: each driver's events go on in order, whatever came of sequences."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from sqlalchemy_outbox.enqueueing.sequences import behind
from sqlalchemy_outbox.testing import RecordingDestination
from tests.conftest import migrate
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import Queue
from tests.outbox.test_worker import eventually, running, worker_of
from tests.postgres import Cluster, run_cluster

_CAUGHT_UP_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Moved:
    """`former` has delivered a driver's first events, and has more of them that wait."""

    cluster: Cluster
    former: Engine
    waiting: list[int]

    def create_database(self, cluster: Cluster) -> Engine:
        cluster.run("createdb", "moved")
        return create_engine(f"{cluster.url}/moved")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with run_cluster() as cluster:
        yield cluster


@pytest.fixture
async def moved(cluster: Cluster) -> AsyncIterator[Moved]:
    url = f"{cluster.url}/postgres"
    migrate(url)
    engine = create_engine(url)
    queue, recorder = Queue(engine, OUTBOX), RecordingDestination()
    queue.put("a", "a", "a")
    await worker_of(queue, recorder).drain()
    assert len(recorder.events) == 3
    yield Moved(cluster, engine, queue.put("a", "a"))
    engine.dispose()


async def deliver_in_order(engine: Engine, waiting: list[int]) -> None:
    """What waited, and then what is enqueued where it was moved to."""
    queue, recorder = Queue(engine, OUTBOX), RecordingDestination()
    later = queue.put("a", "a")
    async with running(worker_of(queue, recorder)):
        await eventually(lambda: len(recorder.events) == len(waiting) + len(later))
    assert [event.id for event in recorder.events] == [*waiting, *later]
    engine.dispose()


async def test_events_go_on_in_order_after_a_dump_and_restore(moved: Moved, tmp_path: Path) -> None:
    file = _writable(tmp_path) / "dump"
    moved.cluster.run("pg_dump", "--format=custom", f"--file={file}", "postgres")
    engine = moved.create_database(moved.cluster)
    moved.cluster.run("pg_restore", "--dbname=moved", str(file))
    await deliver_in_order(engine, moved.waiting)


async def test_events_go_on_in_order_after_a_restore_of_the_tables_data_alone(moved: Moved, tmp_path: Path) -> None:
    file = _writable(tmp_path) / "dump"
    data = ("--format=custom", "--data-only", "--table=outbox_events*", "--exclude-table=*_seq")
    moved.cluster.run("pg_dump", *data, f"--file={file}", "postgres")
    engine = moved.create_database(moved.cluster)
    migrate(f"{moved.cluster.url}/moved")
    wanted = _without_sequences(moved.cluster, file)
    moved.cluster.run("pg_restore", "--dbname=moved", f"--use-list={wanted}", str(file))
    assert lies_behind(engine)
    await deliver_in_order(engine, moved.waiting)


async def test_events_go_on_in_order_after_logical_replication_to_a_new_server(
    moved: Moved,
) -> None:
    moved.former.dispose()
    moved.cluster.restart(wal_level="logical")
    with run_cluster() as to:
        engine = moved.create_database(to)
        migrate(f"{to.url}/moved")
        with moved.former.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            tables = ", ".join(table.name for table in OUTBOX.tables)
            connection.execute(text(f"CREATE PUBLICATION moving FOR TABLE {tables}"))
        source = moved.former.url.set(drivername="postgresql").render_as_string()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE SUBSCRIPTION moving CONNECTION '{source}' PUBLICATION moving"))
            waiting = [*moved.waiting, *Queue(moved.former, OUTBOX).put("a")]
            _await_events(engine, 3 + len(waiting))
            connection.execute(text("DROP SUBSCRIPTION moving"))
        assert lies_behind(engine)
        await deliver_in_order(engine, waiting)


def lies_behind(engine: Engine) -> bool:
    with engine.connect() as connection:
        return "outbox_events" in [found.table for found in behind(connection, OUTBOX)]


def _writable(folder: Path) -> Path:
    """By whom the server runs, and its programs."""
    made = folder / "dumps"
    made.mkdir()
    made.chmod(0o777)
    for parent in folder.parents[:3]:
        parent.chmod(0o755)
    folder.chmod(0o755)
    return made


def _without_sequences(cluster: Cluster, file: Path) -> Path:
    listed = file.with_suffix(".list")
    cluster.run("pg_restore", "--list", f"--file={listed}", str(file))
    lines = [line for line in listed.read_text().splitlines() if "SEQUENCE SET" not in line]
    wanted = file.with_suffix(".wanted")
    wanted.write_text("\n".join(lines))
    return wanted


def _await_events(engine: Engine, count: int) -> None:
    deadline = time.monotonic() + _CAUGHT_UP_SECONDS
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.execute(text("SELECT count(*) FROM outbox_events")).scalar_one() < count:
            assert time.monotonic() < deadline, "the subscription does not follow"
            time.sleep(0.05)
