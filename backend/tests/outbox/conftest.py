"""The outbox apart from Nerava: its two tables and one business table, on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import pytest
from sqlalchemy import URL, Column, Engine, Integer, MetaData, Table, Text, create_engine, func, make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.model import Outbox, define_outbox
from tests.conftest import copy_of, create_template, url_of_kind

METADATA = MetaData()
OUTBOX = define_outbox(METADATA)
# What a business transaction writes, so that a test can tell whether it committed.
ORDERS = Table("orders", METADATA, Column("id", Integer, primary_key=True), Column("item", Text, unique=True))

# Of a session, in the order of a transaction's life.
HOOKS = [
    "after_transaction_create",
    "after_begin",
    "before_flush",
    "after_flush",
    "after_flush_postexec",
    "before_commit",
    "after_commit",
    "after_rollback",
    "after_soft_rollback",
    "after_transaction_end",
]
_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql+psycopg": "postgresql+psycopg"}


@pytest.fixture
def outbox() -> Outbox:
    return OUTBOX


def create_tables(url: str) -> None:
    engine = create_engine(url)
    configure_engine(engine)
    METADATA.create_all(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def _template(postgres_server: str) -> str:
    return create_template(postgres_server, create_tables)


@pytest.fixture
def outbox_postgres_url(postgres_server: str, _template: str) -> Iterator[str]:
    yield from copy_of(postgres_server, _template)


@pytest.fixture
def outbox_sqlite_url(sqlite_url: str) -> str:
    create_tables(sqlite_url)
    return sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database that has the outbox's tables and nothing of Nerava, once of each kind."""
    return url_of_kind(request, sqlite="outbox_sqlite_url", postgresql="outbox_postgres_url")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    configure_engine(engine)
    yield engine
    engine.dispose()


def async_url(url: str) -> URL:
    """The same database, by a driver for async engines."""
    made = make_url(url)
    return made.set(drivername=_ASYNC_DRIVERS[made.drivername])


@pytest.fixture(params=[True, False], ids=["configured", "plain"])
async def async_engine(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(async_url(database_url))
    if request.param:
        configure_engine(engine)
    yield engine
    await engine.dispose()


def stored_ids(engine: Engine) -> list[UUID]:
    """The ids of the events that exist, in their order."""
    with engine.connect() as connection:
        return list(connection.execute(select(OUTBOX.events.c.event_id).order_by(OUTBOX.events.c.id)).scalars())


def count_orders(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(ORDERS)).scalar_one()
