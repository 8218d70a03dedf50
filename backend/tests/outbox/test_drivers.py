"""The matrix of docs/deploying.md: by which driver an application may enqueue, whom its commits wake, and who works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy import Engine, MetaData, create_engine, insert, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from instruments.urls import plain_url
from sqlalchemy_outbox.database.engines import worker_engine
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.model import Outbox, define_outbox
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.conftest import ORDERS, OUTBOX, count_orders, stored_ids
from tests.outbox.queue import TYPES, Queue
from tests.outbox.test_worker import eventually, running, worker_of

SYNC = ("psycopg", "psycopg2", "pg8000")
ASYNC = ("psycopg_async", "asyncpg")
# Below the poll's 10 s.
AT_ONCE_SECONDS = 5


@dataclass
class Application:
    """A process of its own, as far as bells go: its commits ring none of this one's workers."""

    outbox: Outbox
    work: Callable[[str, bool], object]
    engine: Engine | AsyncEngine

    async def enqueue(self, item: str, *, is_committed: bool = True) -> None:
        if isinstance(self.engine, Engine):
            await asyncio.to_thread(self.work, item, is_committed)
        else:
            async with AsyncSession(self.engine) as session:
                await session.execute(insert(ORDERS).values(item=item))
                enqueue(session, self.outbox, TYPES[0], item, {"n": 1})
                await (session.commit() if is_committed else session.rollback())


def application_of(engine: Engine | AsyncEngine) -> Application:
    outbox = define_outbox(MetaData())

    def work(item: str, is_committed: bool) -> None:
        assert isinstance(engine, Engine)
        with Session(engine) as session:
            session.execute(insert(ORDERS).values(item=item))
            enqueue(session, outbox, TYPES[0], item, {"n": 1})
            (session.commit if is_committed else session.rollback)()

    return Application(outbox, work, engine)


@pytest.fixture(params=[*SYNC, *ASYNC])
async def application(outbox_postgres_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Application]:
    url = make_url(outbox_postgres_url).set(drivername=f"postgresql+{request.param}")
    # What the URL does not say is said apart, as passwords and certificates are.
    username, url = url.username, url.set(username=None)
    arguments = {"user": username}
    if request.param in ASYNC:
        async_engine = create_async_engine(url, connect_args=arguments)
        yield application_of(async_engine)
        await async_engine.dispose()
        return
    engine = create_engine(url, connect_args=arguments)
    yield application_of(engine)
    engine.dispose()


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(outbox_postgres_url)
    yield engine
    engine.dispose()


async def test_commit_by_any_driver_stores_its_event_and_wakes_other_processes(
    application: Application, engine: Engine
) -> None:
    with psycopg.connect(plain_url(engine.url), autocommit=True) as listening:
        listening.execute(f"LISTEN {OUTBOX.name}")
        await application.enqueue("rolled back", is_committed=False)
        await application.enqueue("committed")
        assert (count_orders(engine), len(stored_ids(engine))) == (1, 1)
        heard = await asyncio.to_thread(lambda: list(listening.notifies(timeout=AT_ONCE_SECONDS, stop_after=1)))
        assert len(heard) == 1
        await application.enqueue("once more")
        heard = await asyncio.to_thread(lambda: list(listening.notifies(timeout=AT_ONCE_SECONDS, stop_after=1)))
        assert len(heard) == 1


async def test_event_after_a_sequence_was_moved_back_is_the_last_by_any_driver(
    application: Application, engine: Engine
) -> None:
    for item in "abc":
        await application.enqueue(item)
    before = stored_ids(engine)
    with engine.begin() as connection:
        connection.execute(OUTBOX.events.delete().where(OUTBOX.events.c.event_id == before[0]))
        connection.exec_driver_sql("ALTER SEQUENCE outbox_events_id_seq RESTART")
    await application.enqueue("d")
    after = stored_ids(engine)
    assert (after[:2], len(after)) == (before[1:], 3)


@pytest.mark.parametrize("driver", SYNC)
async def test_worker_on_any_sync_driver_delivers_and_hears_of_commits_at_once(engine: Engine, driver: str) -> None:
    url = engine.url.set(drivername=f"postgresql+{driver}")
    works_by = create_engine(url)
    recorder = RecordingDestination()
    application = application_of(engine)
    async with running(worker_of(Queue(works_by, OUTBOX), recorder)):
        for n in (1, 2):
            await application.enqueue(f"order-{n}")
            await eventually(lambda n=n: len(recorder.events) == n, AT_ONCE_SECONDS)
    works_by.dispose()


async def test_worker_whose_url_does_not_lead_psycopg_there_polls_and_says_so(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    url = engine.url.set(drivername="postgresql+psycopg2", port=1)
    works_by = create_engine(url, connect_args={"port": engine.url.port})
    recorder = RecordingDestination()
    await application_of(engine).enqueue("order")
    async with running(worker_of(Queue(works_by, OUTBOX), recorder)):
        await eventually(lambda: len(recorder.events) == 1)
    works_by.dispose()
    [line] = [message for message in caplog.messages if "do not hear" in message]
    assert "listen_engine" in line


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg", "sqlite+aiosqlite"])
async def test_worker_shares_the_database_of_an_async_engine(
    driver: str, outbox_postgres_url: str, outbox_sqlite_url: str
) -> None:
    url = make_url(outbox_sqlite_url if "sqlite" in driver else outbox_postgres_url).set(drivername=driver)
    async_engine = create_async_engine(url)
    with pytest.raises(TypeError, match="worker_engine"):
        Worker(OUTBOX, async_engine, RecordingDestination(), None, types=TYPES)  # type: ignore[arg-type]
    works_by = worker_engine(async_engine)
    recorder = RecordingDestination()
    await application_of(async_engine).enqueue("order")
    await worker_of(Queue(works_by, OUTBOX), recorder).drain()
    assert len(recorder.events) == 1
    works_by.dispose()
    await async_engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg2", "pg8000"])
def test_serialization_failure_of_the_write_is_known_by_any_driver(engine: Engine, driver: str) -> None:
    """A transaction that the database has ended cannot be committed without its event."""
    other = create_engine(engine.url.set(drivername=f"postgresql+{driver}"))
    with Session(other) as session:
        for statement in (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END $$",
            "CREATE TRIGGER refuse BEFORE INSERT ON outbox_events EXECUTE FUNCTION refuse()",
        ):
            session.connection().exec_driver_sql(statement)
        enqueue(session, OUTBOX, TYPES[0], "order", {})
        with pytest.raises(DBAPIError, match="try again"):
            session.commit()
    other.dispose()


def test_hosts_between_commas_or_each_by_itself_lead_to_the_primary(engine: Engine) -> None:
    url = engine.url
    port, name = url.port, url.database
    comma = f"postgresql://postgres@127.0.0.1:1,127.0.0.1:{port}/{name}?target_session_attrs=read-write"
    each = f"postgresql://postgres@/{name}?host=127.0.0.1:1&host=127.0.0.1:{port}&target_session_attrs=read-write"
    for text in (comma, each):
        works_by = worker_engine(text)
        recorder = RecordingDestination()
        queue = Queue(works_by, OUTBOX)
        queue.put("order")
        asyncio.run(worker_of(queue, recorder).drain())
        assert len(recorder.events) == 1
        works_by.dispose()
