"""The outbox apart from Nerava: its two tables and one business table, on each database."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, Text, create_engine, func, select

from outbox.model import Outbox, define_outbox
from outbox.sqlite import configure_engine

METADATA = MetaData()
OUTBOX = define_outbox(METADATA)
# What a business transaction writes, so that a test can tell whether it committed.
ORDERS = Table("orders", METADATA, Column("id", Integer, primary_key=True), Column("item", Text, unique=True))


@pytest.fixture
def outbox() -> Outbox:
    return OUTBOX


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    """An engine over a fresh database that has the outbox's tables and nothing of Nerava."""
    engine = create_engine(empty_database_url)
    configure_engine(engine)
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


def stored_ids(engine: Engine) -> list[UUID]:
    """The ids of the events that exist, in their order."""
    with engine.connect() as connection:
        return list(connection.execute(select(OUTBOX.events.c.event_id).order_by(OUTBOX.events.c.id)).scalars())


def count_orders(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(ORDERS)).scalar_one()
