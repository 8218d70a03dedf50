"""Where each statement commits by itself an event is refused, or lost at once, and the request goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.enqueueing.losses import GOES_ON_WITHOUT
from tests.outbox.conftest import ORDERS, OUTBOX, count_orders, stored_ids

LEVEL = {"isolation_level": "AUTOCOMMIT"}


def make_driver_autocommit(dbapi_connection: Any, *_: object) -> None:
    if hasattr(dbapi_connection, "autocommit"):
        dbapi_connection.autocommit = True
    else:
        dbapi_connection.isolation_level = None


def by_driver(url: str) -> Engine:
    is_sqlite = url.startswith("sqlite")
    return create_engine(url, connect_args={"isolation_level": None} if is_sqlite else {"autocommit": True})


def by_listener(hook: str, listener: Callable[..., None]) -> Callable[[str], Engine]:
    def create(url: str) -> Engine:
        engine = create_engine(url)
        event.listen(engine, hook, listener)
        return engine

    return create


WAYS = {
    "engine": lambda url: create_engine(url, **LEVEL),
    "engine's options": lambda url: create_engine(url).execution_options(**LEVEL),
    "options of create_engine": lambda url: create_engine(url, execution_options=LEVEL),
    "small letters": lambda url: create_engine(url, isolation_level="autocommit"),
    "options in small letters": lambda url: create_engine(url).execution_options(isolation_level="Autocommit"),
    "driver": by_driver,
    "listener of connect": by_listener("connect", make_driver_autocommit),
    "listener of checkout": by_listener("checkout", make_driver_autocommit),
    "listener of engine_connect": by_listener(
        "engine_connect", lambda connection: connection.execution_options(**LEVEL) and None
    ),
}


def write(db: Session | Connection) -> None:
    db.execute(insert(ORDERS))


def lost_in(caplog: pytest.LogCaptureFixture) -> int:
    return sum("is lost" in message and GOES_ON_WITHOUT in message for message in caplog.messages)


@pytest.mark.parametrize("way", WAYS)
def test_event_in_autocommit_is_refused_or_lost_at_once_whichever_way_it_was_set(
    database_url: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = WAYS[way](database_url)
    refused = 0

    def track(db: Session | Connection) -> None:
        nonlocal refused
        try:
            enqueue(db, OUTBOX, "something_happened", "driver-1", {})
        except TypeError as error:
            refused += "isolation_level" in str(error)

    orders: list[Callable[..., None]] = [write, track]
    for kind, end, steps in product((Session, Engine.connect), ("commit", "rollback"), (orders, orders[::-1])):
        with kind(engine) as db:
            for step in steps:
                step(db)
            getattr(db, end)()
    assert (refused + lost_in(caplog), stored_ids(engine)) == (8, [])
    assert count_orders(engine) == 8
    engine.dispose()


def test_event_of_a_session_whose_connection_becomes_autocommit_is_lost_at_once_and_said_so(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    for end in ("commit", "rollback", "close"):
        with Session(engine) as session:
            enqueue(session, OUTBOX, "something_happened", "driver-1", {})
            session.connection(execution_options=LEVEL)
            getattr(session, end)()
    assert (lost_in(caplog), stored_ids(engine)) == (3, [])


def test_other_isolation_asked_of_an_autocommit_engine_is_taken(database_url: str) -> None:
    engine = create_engine(database_url, **LEVEL)
    isolation = {"isolation_level": "SERIALIZABLE"}
    kept = []
    with Session(engine.execution_options(**isolation)) as session:
        kept.append(enqueue(session, OUTBOX, "something_happened", "driver-1", {}))
        write(session)
        session.commit()
    with engine.connect().execution_options(**isolation) as connection:
        kept.append(enqueue(connection, OUTBOX, "something_happened", "driver-1", {}))
        connection.commit()
        enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
        connection.rollback()
    assert stored_ids(engine) == kept
    engine.dispose()


@pytest.fixture
def configured(database_url: str) -> Iterator[Engine]:
    """Whose driver begins nothing by itself on SQLite, and SQLAlchemy does."""
    engine = create_engine(database_url, connect_args={"isolation_level": None} if "sqlite" in database_url else {})
    configure_engine(engine)
    yield engine
    engine.dispose()


def test_driver_that_begins_nothing_is_no_autocommit_where_a_listener_begins(configured: Engine) -> None:
    with Session(configured) as session:
        kept = enqueue(session, OUTBOX, "something_happened", "driver-1", {})
        session.commit()
        enqueue(session, OUTBOX, "something_happened", "driver-1", {})
        session.rollback()
    assert stored_ids(configured) == [kept]


async def test_async_drivers_autocommit_is_seen(
    database_url: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    url = make_url(database_url)
    async_url = url.set(drivername={"sqlite": "sqlite+aiosqlite"}.get(url.drivername, url.drivername))
    async_engine = create_async_engine(async_url)
    event.listen(async_engine.sync_engine, "connect", make_driver_autocommit)

    async def write_and_roll_back(db: AsyncSession | AsyncConnection) -> None:
        await db.execute(insert(ORDERS))
        await db.rollback()

    async with async_engine.connect() as connection:
        await connection.execute(insert(ORDERS))
        with pytest.raises(TypeError, match="isolation_level"):
            enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
        await connection.rollback()
    async with AsyncSession(async_engine) as session:
        enqueue(session, OUTBOX, "something_happened", "driver-1", {})
        await write_and_roll_back(session)
    await async_engine.dispose()
    assert (count_orders(engine), lost_in(caplog), stored_ids(engine)) == (2, 1, [])
