"""Behind a real PgBouncer in transaction mode: the main job, application and worker, and what a session must not be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest
from sqlalchemy import Engine, MetaData, create_engine, make_url, text
from sqlalchemy.exc import InternalError
from typer.testing import CliRunner

from app.cli import cli
from app.database import create_database_engine, create_listen_engine
from app.events import CATALOG
from app.models import OUTBOX
from app.settings import Settings
from hubspot_sync.integration import Integration
from sqlalchemy_outbox.database.pooler import Pooler, configure_engine, is_pooled
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.model import define_outbox
from tests.conftest import missing_tool
from tests.outbox.queue import Queue
from tests.outbox.test_worker import eventually, running
from tests.pgbouncer import PgBouncerMissing, run_pgbouncer
from tests.test_read_only_server import Server
from tests.test_server_settings import _quiet_log, travel

__all__ = ["_quiet_log"]

POOL_SIZE = 4
# Below the poll's 10 s.
AT_ONCE_SECONDS = 5


@pytest.fixture(scope="module")
def pooler(postgres_server: str) -> Iterator[str]:
    try:
        with run_pgbouncer(postgres_server, default_pool_size=str(POOL_SIZE)) as url:
            yield url
    except PgBouncerMissing as missing:
        missing_tool(str(missing))


@pytest.fixture
def pooled_url(pooler: str, migrated_postgres_url: str) -> str:
    return make_url(pooler).set(database=make_url(migrated_postgres_url).database).render_as_string()


@pytest.fixture
def pooled(pooled_url: str) -> Iterator[Engine]:
    engine = create_database_engine(pooled_url)
    yield engine
    engine.dispose()


def sessions(url: str, *questions: str) -> list[tuple[object, ...]]:
    """What the server's sessions behind the pooler answer, each of them."""
    engine = create_engine(url, pool_size=POOL_SIZE, connect_args={"prepare_threshold": None})
    with ExitStack() as stack:
        connections = [stack.enter_context(engine.begin()) for _ in range(POOL_SIZE)]
        found = [
            tuple(connection.execute(text(question)).scalar() for question in questions) for connection in connections
        ]
    engine.dispose()
    return found


def doctor(url: str, **environment: str) -> dict[str, str]:
    ran = CliRunner().invoke(cli, ["doctor", "--json"], env={"DATABASE_URL": url, **environment})
    (check,) = [check for check in json.loads(ran.stdout)["checks"] if check["name"] == "connection"]
    return check


def test_main_job_runs_through_a_transaction_pooler_and_leaves_nothing_in_its_sessions(
    pooled_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    travel(pooled_url)
    [line] = {record.message for record in caplog.records if "does not tell" in record.message}
    assert "pooler" in line
    assert "DATABASE_LISTEN_URL" in line
    found = sessions(
        pooled_url,
        "SHOW lock_timeout",
        "SHOW idle_in_transaction_session_timeout",
        "SELECT count(*) FROM pg_prepared_statements",
        "SELECT count(*) FROM pg_listening_channels()",
    )
    assert found == [("0", "0", 0, 0)] * POOL_SIZE


def test_transactions_behind_a_pooler_have_the_timeouts_of_a_session(pooled: Engine) -> None:
    with pooled.begin() as connection:
        shown = [
            connection.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("lock_timeout", "idle_in_transaction_session_timeout")
        ]
    assert shown == ["5s", "10s"]


def test_statement_that_is_repeated_is_not_prepared_behind_a_pooler(pooled: Engine) -> None:
    with pooled.connect() as connection:
        for _ in range(20):
            connection.execute(text("SELECT 1"))
            connection.commit()
        assert connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one() == 0


def test_many_at_once_behind_a_pooler_fail_nowhere_and_read_their_own_answers(pooled: Engine) -> None:
    """Statements that are prepared would meet others' sessions, which may answer with another statement's rows."""

    def work(n: int) -> list[int]:
        queue = Queue(pooled, OUTBOX)
        queue.put(f"driver-{n}", event_type="driver_signed_up")
        with pooled.connect() as connection:
            found = []
            for _ in range(20):
                found.append(connection.execute(text(f"SELECT {n} + :one"), {"one": 1}).scalar_one())
                connection.commit()
            return found

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(40))) == [[n + 1] * 20 for n in range(40)]


@pytest.mark.parametrize("between", [None, Pooler.AUTO, Pooler.NONE])
def test_events_behind_a_pooler_that_nobody_has_declared_are_those_of_the_rows(
    pooled_url: str, pooled: Engine, between: Pooler | None
) -> None:
    """Nor with an engine that nothing was done to, and with a wrong word for the pooler."""
    engine = create_engine(pooled_url, connect_args={"prepare_threshold": 1}, pool_size=8)
    if between is not None:
        configure_engine(engine, pooler=between)

    def work(n: int) -> list[str]:
        written = []
        for _ in range(6):
            with engine.begin() as connection:
                # psycopg would prepare what it has seen before.
                kept = connection.execute(text(f"SELECT pg_backend_pid() -- {uuid4()}")).scalar_one()
                written.append(str(enqueue(connection, OUTBOX, "driver_signed_up", f"driver-{n}", {"kept": kept})))
        return written

    with ThreadPoolExecutor(8) as threads:
        expected = [id_ for ids in threads.map(work, range(16)) for id_ in ids]
    engine.dispose()
    with pooled.connect() as connection:
        found = connection.execute(text("SELECT event_id::text FROM outbox_events")).scalars().all()
    assert sorted(found) == sorted(expected)
    if between is not Pooler.NONE:
        assert sessions(pooled_url, "SELECT count(*) FROM pg_prepared_statements") == [(0,)] * POOL_SIZE


@pytest.mark.parametrize("between", Pooler)
def test_word_of_the_operator_decides_where_one_is_said(migrated_postgres_url: str, between: Pooler) -> None:
    """A direct way that is said to lead through a pooler is used as one that does."""
    engine = create_database_engine(migrated_postgres_url, between)
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL lock_timeout = DEFAULT"))
        connection.commit()
        is_of_session = connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("SHOW lock_timeout"))
        assert (is_of_session.scalar_one() == "5s") is (between is not Pooler.TRANSACTION)
    engine.dispose()


async def test_worker_with_a_direct_way_hears_at_once_of_commits_through_the_pooler(
    pooled: Engine, migrated_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(_env_file=None, hubspot_enabled=True)
    listen_engine = create_listen_engine(migrated_postgres_url)
    integration = Integration(settings, OUTBOX, CATALOG, pooled, listen_engine=listen_engine)
    # Declared anew, as in another process: a commit sets no wake event of this one.
    elsewhere = Queue(pooled, define_outbox(MetaData()))
    async with integration.worker() as worker, running(worker):
        for _ in range(2):
            # The first may be found by the claim with which a worker begins.
            (id_,) = await asyncio.to_thread(lambda: elsewhere.put("driver-1", event_type="driver_signed_up"))
            await eventually(lambda id_=id_: elsewhere.row(id_).failed_at is not None, AT_ONCE_SECONDS)
    assert [record.message for record in caplog.records if "does not tell" in record.message] == []


def test_doctor_says_what_lies_before_the_database(pooled_url: str, migrated_postgres_url: str) -> None:
    assert doctor(migrated_postgres_url)["finding"] == "pass"
    found = doctor(pooled_url)
    assert (found["finding"], "pooler" in found["detail"]) == ("warn", True)
    assert "DATABASE_LISTEN_URL" in found["remedy"]
    found = doctor(pooled_url, DATABASE_LISTEN_URL=migrated_postgres_url)
    assert (found["finding"], "listen" in found["detail"]) == ("pass", True)
    found = doctor(pooled_url, DATABASE_LISTEN_URL=pooled_url)
    assert (found["finding"], "pooler" in found["detail"]) == ("fail", True)
    other = make_url(migrated_postgres_url).set(database="postgres").render_as_string()
    found = doctor(pooled_url, DATABASE_LISTEN_URL=other)
    assert (found["finding"], "another database" in found["detail"]) == ("fail", True)


def test_server_that_was_read_only_for_a_while_can_be_written_to_behind_a_pooler(
    pooled: Engine, migrated_postgres_url: str
) -> None:
    """PgBouncer 1.26 keeps `default_transaction_read_only` for its clients, new ones too, as it first heard of it."""

    def can_write() -> bool:
        try:
            with pooled.begin() as connection:
                connection.execute(text("UPDATE outbox_events SET dry_run = dry_run"))
        except InternalError:
            return False
        return True

    with closing(Server(migrated_postgres_url)) as server:
        server.set_read_only(is_read_only=True)
        assert [can_write() for _ in range(POOL_SIZE)] == [False] * POOL_SIZE
        server.set_read_only(is_read_only=False)
        assert can_write() or can_write()
        assert can_write()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_pooler_that_says_its_mode_is_taken_at_its_word(
    postgres_server: str, migrated_postgres_url: str, mode: str
) -> None:
    """From PgBouncer 1.26 on; any other is taken for one in transaction mode."""
    try:
        with run_pgbouncer(postgres_server, pool_mode=mode) as server:
            engine = create_database_engine(f"{server}/{make_url(migrated_postgres_url).database}")
            with engine.connect() as connection:
                driver = connection.connection.driver_connection
                is_known = driver.info.parameter_status("pgbouncer.pool_mode") is not None
                assert is_pooled(connection) is (mode == "transaction" or not is_known)
            engine.dispose()
    except PgBouncerMissing as missing:
        missing_tool(str(missing))


def test_doctor_looks_at_the_rights_of_the_role_that_listens(migrated_postgres_url: str) -> None:
    url = make_url(migrated_postgres_url)
    role = f"listens_{url.database}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
    found = doctor(migrated_postgres_url, DATABASE_LISTEN_URL=url.set(username=role).render_as_string())
    assert (found["finding"], "UPDATE ON outbox_events" in found["detail"]) == ("fail", True)
    with engine.begin() as connection:
        connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()
