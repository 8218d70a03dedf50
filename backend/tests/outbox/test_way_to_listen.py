"""A worker's own way to listen by that does not serve: it says so, and claims by its engine's way meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url, text

from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.conftest import OUTBOX, create_tables
from tests.outbox.queue import TYPES, Queue
from tests.outbox.test_worker import eventually, running


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(outbox_postgres_url)
    yield engine
    engine.dispose()


def worker_that_listens_by(listen_url: str, queue: Queue, deliver: RecordingDestination) -> Worker:
    listen_engine = create_engine(listen_url, poolclass=NullPool)
    gate = Gate(OUTBOX, queue.engine, requests_per_second=1000)
    return Worker(OUTBOX, queue.engine, deliver, gate, types=TYPES, listen_engine=listen_engine)


async def deliver_by_the_engines_way(listen_url: str, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    queue, recorder = Queue(engine, OUTBOX), RecordingDestination()
    queue.put("a")
    async with running(worker_that_listens_by(listen_url, queue, recorder)):
        for n in (1, 2):
            await eventually(lambda n=n: len(recorder.events) == n)
            queue.put("b")
    assert len([line for line in caplog.messages if "way to listen" in line]) == 1


async def test_worker_whose_way_to_listen_leads_nowhere_delivers_all_the_same(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = engine.url.set(port=1).render_as_string()
    await deliver_by_the_engines_way(nowhere, engine, caplog)


async def test_worker_claims_nothing_by_a_way_that_leads_to_another_database(
    engine: Engine, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    create_tables(postgres_url)
    other = create_engine(postgres_url)
    elsewhere = Queue(other, OUTBOX)
    (id_,) = elsewhere.put("a")
    await deliver_by_the_engines_way(postgres_url, engine, caplog)
    assert elsewhere.row(id_).processed_at is None
    assert elsewhere.row(id_).claim_token is None
    other.dispose()


async def test_worker_whose_way_to_listen_has_a_role_that_may_not_claim_delivers_all_the_same(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"listens_{make_url(engine.url).database}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
    await deliver_by_the_engines_way(engine.url.set(username=role).render_as_string(), engine, caplog)
    with engine.begin() as connection:
        connection.execute(text(f"DROP ROLE {role}"))
