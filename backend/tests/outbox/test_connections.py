"""Guarantee 1 without a session: an event on a Connection or an AsyncConnection shares its transaction's fate."""

from __future__ import annotations

import gc
import logging
from contextlib import ExitStack, suppress
from uuid import UUID
from warnings import catch_warnings

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.waking import wakeup
from tests.outbox.conftest import ORDERS, OUTBOX, count_orders, stored_ids
from tests.outbox.test_session_forms import enqueued_count, require_two_phases


def add(connection: Connection | AsyncConnection) -> UUID:
    return enqueue(connection, OUTBOX, "something_happened", "driver-1", {"n": 1})


def order(connection: Connection, item: str) -> None:
    connection.execute(insert(ORDERS).values(item=item))


def test_event_of_a_committed_connection_exists_however_it_commits(engine: Engine) -> None:
    expected = []
    with engine.begin() as connection:
        expected.append(add(connection))
    with engine.connect() as connection:
        expected.append(add(connection))
        order(connection, "a")
        connection.commit()
        expected.append(add(connection))
        connection.commit()
        connection.commit()
        with connection.begin() as transaction:
            expected.append(add(connection))
            transaction.commit()
    assert stored_ids(engine) == expected


def test_event_of_a_rolled_back_connection_does_not_exist(engine: Engine) -> None:
    with engine.connect() as connection:
        add(connection)
        order(connection, "a")
        connection.rollback()
        connection.commit()
        add(connection)
        order(connection, "b")
    with engine.connect() as connection:
        connection.commit()
        order(connection, "c")
        connection.commit()
    with suppress(ZeroDivisionError), engine.begin() as connection:
        add(connection)
        raise ZeroDivisionError
    assert count_orders(engine) == 1
    assert stored_ids(engine) == []


def test_connections_savepoints_take_their_own_events_with_them(engine: Engine) -> None:
    with engine.begin() as connection:
        kept = [add(connection)]
        with connection.begin_nested():
            kept.append(add(connection))
            with connection.begin_nested() as inner:
                add(connection)
                inner.rollback()
            kept.append(add(connection))
        outer = connection.begin_nested()
        connection.begin_nested().commit()
        with connection.begin_nested():
            add(connection)
        outer.rollback()
        kept.append(add(connection))
        connection.begin_nested()
        kept.append(add(connection))
    assert stored_ids(engine) == kept


def test_savepoint_set_before_the_first_event_takes_it_along(engine: Engine) -> None:
    with engine.begin() as connection:
        outer = connection.begin_nested()
        inner = connection.begin_nested()
        add(connection)
        inner.commit()
        outer.rollback()
        kept = add(connection)
    assert stored_ids(engine) == [kept]


@pytest.mark.filterwarnings("ignore:nested transaction already deassociated")
def test_savepoint_rolled_back_before_those_within_it_takes_all_their_events(engine: Engine) -> None:
    with engine.connect() as connection:
        kept = add(connection)
        outer = connection.begin_nested()
        add(connection)
        connection.begin_nested()
        add(connection)
        outer.rollback()
        connection.commit()
    assert stored_ids(engine) == [kept]


def test_nothing_of_an_event_stays_with_the_pooled_connection(engine: Engine) -> None:
    for end in (Connection.commit, Connection.rollback, Connection.close):
        with engine.connect() as connection:
            known = dict(connection.info)
            add(connection)
            assert connection.info == known
            end(connection)
        with engine.connect() as connection:
            assert connection.info == known
            assert type(connection.begin()).__module__.startswith("sqlalchemy")


def test_commit_of_a_connection_wakes_workers_and_counts_and_nothing_else_does(engine: Engine) -> None:
    wake_event = wakeup.WakeEvent()
    wakeup.subscribe(OUTBOX, wake_event)
    rings: list[None] = []
    counted = enqueued_count()
    with wake_event.waking(lambda: rings.append(None)), engine.connect() as connection:
        add(connection)
        connection.rollback()
        transaction = connection.begin()
        add(connection)
        add(connection)
        assert (len(rings), enqueued_count() - counted) == (0, 0)
        transaction.commit()
        assert (len(rings), enqueued_count() - counted) == (1, 2)


def test_two_phases_of_a_connection_keep_the_events_of_the_first(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    require_two_phases(engine)
    counted = enqueued_count()
    with engine.connect() as connection:
        transaction = connection.begin_twophase()
        kept = [add(connection)]
        order(connection, "a")
        transaction.prepare()
        with pytest.raises(TypeError, match=r"before prepare\(\)"):
            add(connection)
        assert enqueued_count() == counted
        transaction.commit()
        transaction = connection.begin_twophase()
        kept.append(add(connection))
        transaction.commit()
        transaction = connection.begin_twophase()
        add(connection)
        transaction.prepare()
        transaction.rollback()
        transaction = connection.begin_twophase()
        transaction.prepare()
        with pytest.raises(TypeError, match=r"before prepare\(\)"):
            add(connection)
        transaction.rollback()
    assert stored_ids(engine) == kept
    assert enqueued_count() == counted + 2
    engine.dispose()


def test_event_enqueued_by_a_listener_of_the_engines_commit_is_written(engine: Engine) -> None:
    tracked: list[UUID] = []

    def track(connection: Connection) -> None:
        tracked.append(add(connection))

    event.listen(engine, "commit", track)
    with engine.begin() as connection:
        first = add(connection)
    event.remove(engine, "commit", track)
    assert stored_ids(engine) == [first, *tracked]
    assert len(tracked) == 1


def test_ends_that_were_taken_from_a_transaction_before_its_first_event_are_its_ends_all_the_same(
    engine: Engine,
) -> None:
    kept = []
    with engine.connect() as connection, ExitStack() as stack:
        stack.callback(connection.begin().commit)
        kept.append(add(connection))
        savepoint = connection.begin_nested()
        roll_back, close = savepoint.rollback, connection.begin_nested().close
        add(connection)
        close()
        add(connection)
        roll_back()
        release = connection.begin_nested().commit
        kept.append(add(connection))
        release()
    with engine.connect() as connection:
        for end in (connection.begin().rollback, None):
            add(connection)
            if end is not None:
                end()
        connection.close()
    assert stored_ids(engine) == kept


def test_ends_of_two_phases_that_were_taken_before_the_first_event_are_its_ends(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    require_two_phases(engine)
    with engine.connect() as connection:
        commit = connection.begin_twophase().commit
        kept = add(connection)
        commit()
        roll_back = connection.begin_twophase().rollback
        add(connection)
        roll_back()
    assert stored_ids(engine) == [kept]
    engine.dispose()


def test_event_and_row_share_their_fate_at_every_hook_of_the_engine(engine: Engine) -> None:
    hooks = ["begin", "savepoint", "release_savepoint", "rollback_savepoint", "commit", "rollback"]
    kept: dict[str, UUID] = {}
    for hook in hooks:

        def track(connection: Connection, *_: object, hook: str = hook) -> None:
            if hook not in kept:
                kept[hook] = UUID(int=0)
                order(connection, hook)
                with suppress(TypeError):
                    kept[hook] = add(connection)

        event.listen(engine, hook, track)
    with engine.connect() as connection:
        connection.begin_nested().commit()
        savepoint = connection.begin_nested()
        add(connection)
        savepoint.rollback()
        connection.commit()
        add(connection)
        connection.rollback()
    # Where it is just beginning, the call was refused.
    assert kept["begin"] == UUID(int=0)
    with engine.connect() as connection:
        rows = set(connection.execute(select(ORDERS.c.item)).scalars())
    assert rows >= {"savepoint", "release_savepoint", "commit"}
    assert set(stored_ids(engine)) == {kept[hook] for hook in rows - {"begin"}}


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_savepoint_whose_end_fails_because_the_one_around_it_is_gone_takes_no_event_of_a_row_along(
    engine: Engine, end: str
) -> None:
    with engine.connect() as connection:
        outer, inner = connection.begin_nested(), connection.begin_nested()
        with catch_warnings(action="ignore"):
            outer.commit()
        order(connection, "a")
        add(connection)
        with suppress(DBAPIError):
            getattr(inner, end)()
        with suppress(DBAPIError, PendingRollbackError):
            connection.commit()
    assert len(stored_ids(engine)) == count_orders(engine)


def test_detached_connection_keeps_its_events(engine: Engine) -> None:
    connection = engine.connect()
    order(connection, "a")
    kept = add(connection)
    connection.detach()
    connection.commit()
    connection.close()
    assert stored_ids(engine) == [kept]


def test_missing_table_costs_a_connection_the_event_alone(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    OUTBOX.events.drop(engine)
    with engine.begin() as connection:
        order(connection, "a")
        event_id = add(connection)
    assert count_orders(engine) == 1
    assert "committed without it" in caplog.text
    assert str(event_id) in caplog.text


def test_lost_connection_fails_the_commit_of_a_connection(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    with engine.connect() as connection:
        order(connection, "a")
        add(connection)
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(DBAPIError):
            connection.commit()
        connection.rollback()
        kept = add(connection)
        connection.commit()
    assert count_orders(engine) == 0
    assert stored_ids(engine) == [kept]
    engine.dispose()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_connection_dropped_without_close_says_so(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    connection = engine.connect()
    event_id = add(connection)
    del connection
    gc.collect()
    assert [record.levelno for record in caplog.records if record.name == "sqlalchemy_outbox.enqueue"] == [
        logging.WARNING
    ]
    assert str(event_id) in caplog.text


@pytest.mark.parametrize("wrong", [None, "session", 7])
def test_what_is_neither_session_nor_connection_is_refused_with_the_remedy(wrong: object) -> None:
    with pytest.raises(TypeError, match="pass the Session"):
        enqueue(wrong, OUTBOX, "something_happened", "driver-1", {})  # type: ignore[arg-type]


async def test_async_connection_keeps_what_it_commits_and_nothing_else(
    async_engine: AsyncEngine, database_url: str
) -> None:
    kept = []
    async with async_engine.begin() as connection:
        kept.append(add(connection))
        savepoint = await connection.begin_nested()
        add(connection)
        await savepoint.rollback()
        async with connection.begin_nested():
            kept.append(add(connection))
    async with async_engine.connect() as connection:
        await connection.execute(insert(ORDERS).values(item="a"))
        add(connection)
        await connection.rollback()
        await connection.execute(insert(ORDERS).values(item="b"))
        kept.append(add(connection))
        await connection.commit()
        await connection.begin()
        add(connection)
    async with async_engine.begin() as connection:
        kept.append(await connection.run_sync(add))
    engine = create_engine(database_url)
    assert stored_ids(engine) == kept
    assert count_orders(engine) == 1
    engine.dispose()


async def test_async_connection_in_no_transaction_begins_one_or_refuses_with_the_remedy(
    async_engine: AsyncEngine, database_url: str
) -> None:
    """Where a listener would have to be awaited, as SQLite's BEGIN is, the call cannot begin."""
    kept = []
    async with async_engine.connect() as connection:
        if connection.sync_connection is not None and connection.sync_connection.dispatch.begin:
            with pytest.raises(TypeError, match=r"engine\.begin\(\)"):
                add(connection)
        else:
            kept.append(add(connection))
        await connection.execute(insert(ORDERS).values(item="a"))
        kept.append(add(connection))
        await connection.commit()
    unstarted = async_engine.connect()
    with pytest.raises(TypeError, match="await it"):
        add(unstarted)
    engine = create_engine(database_url)
    assert stored_ids(engine) == kept
    assert count_orders(engine) == 1
    engine.dispose()
