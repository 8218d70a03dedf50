"""The same call serves async sessions: no await, the same guarantees."""

from __future__ import annotations

import asyncio
import logging

import pytest
from sqlalchemy import create_engine, event, insert, select, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from tests.outbox.conftest import ORDERS, OUTBOX


async def stored_types(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list(
            (await connection.execute(select(OUTBOX.events.c.event_type).order_by(OUTBOX.events.c.id))).scalars()
        )


async def test_event_exists_if_and_only_if_the_async_transaction_commits(async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session:
        enqueue(session, OUTBOX, "rolled_back", "driver-1", {})
        await session.rollback()
        enqueue(session, OUTBOX, "committed", "driver-1", {})
        await session.commit()
    assert await stored_types(async_engine) == ["committed"]


async def test_rolled_back_async_savepoint_takes_only_its_own_events(async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session, session.begin():
        enqueue(session, OUTBOX, "before", "driver-1", {})
        savepoint = await session.begin_nested()
        enqueue(session, OUTBOX, "inside", "driver-1", {})
        await savepoint.rollback()
        enqueue(session, OUTBOX, "after", "driver-1", {})
    assert await stored_types(async_engine) == ["before", "after"]


async def test_write_is_part_of_the_async_transaction(async_engine: AsyncEngine) -> None:
    async with AsyncSession(async_engine) as session:
        enqueue(session, OUTBOX, "written_then_rolled_back", "driver-1", {})
        event.listen(session.sync_session, "before_commit", _refuse)
        with pytest.raises(ZeroDivisionError):
            await session.commit()
        await session.rollback()
    assert await stored_types(async_engine) == []


async def test_async_write_is_seen_by_nobody_before_the_commit(async_engine: AsyncEngine) -> None:
    other = create_engine(async_engine.url.set(drivername=async_engine.url.drivername.removesuffix("+aiosqlite")))
    seen: list[int] = []

    def look(_connection: object) -> None:
        with other.connect() as connection:
            seen.append(len(connection.execute(select(OUTBOX.events)).all()))

    # The last thing before COMMIT, and so after the write.
    event.listen(async_engine.sync_engine, "commit", look)
    async with AsyncSession(async_engine) as session:
        enqueue(session, OUTBOX, "committed", "driver-1", {})
        await session.commit()
    assert seen == [0]
    assert await stored_types(async_engine) == ["committed"]
    other.dispose()


def _refuse(_session: object) -> None:
    raise ZeroDivisionError


async def test_async_scoped_session_is_taken_like_its_session(async_engine: AsyncEngine) -> None:
    sessions = async_scoped_session(async_sessionmaker(async_engine), scopefunc=lambda: 1)
    enqueue(sessions, OUTBOX, "scoped", "driver-1", {})
    await sessions.commit()
    await sessions.remove()
    assert await stored_types(async_engine) == ["scoped"]


async def test_missing_table_leaves_the_async_transaction_committable(async_engine: AsyncEngine) -> None:
    async with async_engine.begin() as connection:
        await connection.run_sync(OUTBOX.events.drop)
    async with AsyncSession(async_engine) as session, session.begin():
        await session.execute(insert(ORDERS).values(item="a"))
        enqueue(session, OUTBOX, "lost", "driver-1", {})
    async with async_engine.connect() as connection:
        assert len((await connection.execute(select(ORDERS))).all()) == 1


async def test_table_that_was_missing_for_long_takes_async_events_again_once_it_is_back(
    outbox_postgres_url: str,
) -> None:
    """Drivers prepare what they are given more than five times; what is prepared in vain must not be used."""
    async_engine = create_async_engine(outbox_postgres_url)
    engine = create_engine(outbox_postgres_url)

    async def request(event_type: str) -> None:
        async with AsyncSession(async_engine) as session, session.begin():
            enqueue(session, OUTBOX, event_type, "driver-1", {})

    for _ in range(4):
        await request("before")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox_events RENAME TO away"))
    for _ in range(8):
        await request("meanwhile")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO outbox_events"))
    for _ in range(8):
        await request("after")
    assert await stored_types(async_engine) == ["before"] * 4 + ["after"] * 8
    engine.dispose()
    await async_engine.dispose()


async def test_async_savepoint_left_open_and_listener_of_before_commit_keep_their_events(
    async_engine: AsyncEngine,
) -> None:
    def track(session: Session) -> None:
        # Fires again where the open savepoint is released.
        if not session.info.setdefault("tracked", False):
            session.info["tracked"] = True
            enqueue(session, OUTBOX, "by the listener", "driver-1", {})

    async with AsyncSession(async_engine) as session, session.begin():
        event.listen(session.sync_session, "before_commit", track)
        enqueue(session, OUTBOX, "before", "driver-1", {})
        await session.begin_nested()
        enqueue(session, OUTBOX, "inside", "driver-1", {})
    assert sorted(await stored_types(async_engine)) == ["before", "by the listener", "inside"]


async def test_async_session_joined_to_a_connection_shares_its_fate(async_engine: AsyncEngine) -> None:
    async with async_engine.connect() as connection:
        for end in ("rollback", "commit"):
            await connection.begin()
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                await session.execute(insert(ORDERS).values(item=end))
                enqueue(session, OUTBOX, end, "driver-1", {})
                await session.commit()
            await getattr(connection, end)()
        # Python's sqlite3 commits where the savepoint is released, unless the engine is configured.
        items = list((await connection.execute(select(ORDERS.c.item).order_by(ORDERS.c.id))).scalars())
    assert items[-1] == "commit"
    assert await stored_types(async_engine) == items


async def test_failed_async_request_leaves_no_warning(
    async_engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async def request() -> None:
        async with AsyncSession(async_engine) as session:
            enqueue(session, OUTBOX, "failed", "driver-1", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await request()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert await stored_types(async_engine) == []


async def test_children_of_gather_that_leave_their_scoped_sessions_say_so(
    async_engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = async_scoped_session(async_sessionmaker(async_engine), scopefunc=asyncio.current_task)

    async def child(event_type: str, is_committed: bool) -> None:
        enqueue(sessions, OUTBOX, event_type, "driver-1", {})
        if is_committed:
            await sessions.commit()
            await sessions.remove()

    await asyncio.gather(child("left", False), child("kept", True))
    await asyncio.sleep(0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "(left of driver-1) was not committed" in caplog.text
    assert await stored_types(async_engine) == ["kept"]
