"""A server that is read-only for a while, as a provider makes it whose disk is full: all goes on once it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import InternalError
from sqlalchemy.orm import Session

from app.database import create_database_engine
from app.main import create_app
from app.models import OUTBOX
from app.services.hubspot import track_event
from app.settings import Settings
from sqlalchemy_outbox.database.transaction import transact
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.queue import Queue
from tests.outbox.test_worker import eventually, running, worker_of
from tests.test_server_settings import _quiet_log

__all__ = ["_quiet_log"]


class Server:
    """The database that a provider makes read-only, and writable again."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(f"{url}?options=-c%20default_transaction_read_only%3Doff")
        self._name = make_url(url).database
        self.queue = Queue(self._engine, OUTBOX)

    def set_read_only(self, *, is_read_only: bool) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE {self._name} SET default_transaction_read_only = {is_read_only}"))

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture
def server(migrated_postgres_url: str) -> Iterator[Server]:
    server = Server(migrated_postgres_url)
    server.set_read_only(is_read_only=True)
    yield server
    server.close()


@pytest.fixture(params=["ours", "plain"])
def engine(migrated_postgres_url: str, server: Server, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Its pool has sessions of the time when the server was read-only."""
    is_ours = request.param == "ours"
    engine = create_database_engine(migrated_postgres_url) if is_ours else create_engine(migrated_postgres_url)
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(engine.connect())
    yield engine
    engine.dispose()


async def test_worker_goes_on_when_the_server_can_be_written_to_and_says_meanwhile_what_is_wrong(
    server: Server, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    (id_,) = server.queue.put("driver-1")
    async with running(worker_of(Queue(engine, OUTBOX), RecordingDestination())):
        await eventually(lambda: "read-only" in caplog.text)
        await asyncio.to_thread(server.set_read_only, is_read_only=False)
        await eventually(lambda: server.queue.row(id_).processed_at is not None)
    assert "migrations" not in caplog.text


async def test_each_of_a_workers_pooled_connections_is_replaced_by_one_failure(server: Server, engine: Engine) -> None:
    worker_of(Queue(engine, OUTBOX), RecordingDestination())

    def write(connection: Connection) -> None:
        connection.execute(text("UPDATE outbox_events SET dry_run = dry_run"))

    with pytest.raises(InternalError):
        await transact(engine, write)
    server.set_read_only(is_read_only=False)
    for _ in range(5):
        await transact(engine, write)


def test_requests_are_answered_503_and_go_on(migrated_postgres_url: str, server: Server) -> None:
    settings = Settings(_env_file=None, database_url=migrated_postgres_url)
    with TestClient(create_app(settings, lambda _: None)) as http:
        body = {"email": "ada@example.com"}
        answers = [http.post("/v1/auth/otp/start", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 503]
        server.set_read_only(is_read_only=False)
        assert (
            http.post("/v1/auth/otp/start", json=body).is_success
            or http.post("/v1/auth/otp/start", json=body).is_success
        )


def test_event_that_alone_was_refused_is_lost_and_the_next_is_not(
    server: Server, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    for is_read_only in (True, False):
        server.set_read_only(is_read_only=is_read_only)
        with Session(engine) as session:
            track_event(session, "driver_signed_up", {"user_id": "d1", "created_at": "2026-11-24T06:40:02Z"})
            session.commit()
    assert "is lost" in caplog.text
    assert len([line for line in caplog.messages if "is lost" in line]) == 1
