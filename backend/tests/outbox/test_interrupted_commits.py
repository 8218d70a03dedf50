"""A commit that is interrupted while it writes its events leaves nothing that a second commit could keep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, insert, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from tests.outbox.conftest import ORDERS, OUTBOX, count_orders, stored_ids


class Interrupt(BaseException):
    """As Ctrl-C or a signal's handler raises it."""


@pytest.mark.parametrize("kind", [Session, Engine.connect], ids=["session", "connection"])
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.filterwarnings("ignore:nested transaction already deassociated")
def test_interrupted_write_leaves_no_row_that_a_second_commit_would_keep_without_its_event(
    outbox_sqlite_url: str, kind: Any, is_nested: bool
) -> None:
    engine = create_engine(outbox_sqlite_url)

    def interrupt(*_: object) -> None:
        event.remove(engine, "savepoint", interrupt)
        raise Interrupt

    with kind(engine) as db:
        savepoint = db.begin_nested() if is_nested else None
        db.execute(insert(ORDERS))
        enqueue(db, OUTBOX, "something_happened", "driver-1", {})
        event.listen(engine, "savepoint", interrupt)
        with pytest.raises(Interrupt):
            (savepoint or db).commit()
        with suppress(InvalidRequestError):
            db.commit()
        db.rollback()
        db.execute(insert(ORDERS))
        kept = enqueue(db, OUTBOX, "something_happened", "driver-1", {})
        db.commit()
    assert (count_orders(engine), stored_ids(engine)) == (1, [kept])
    engine.dispose()


@pytest.mark.parametrize("make", [AsyncSession, AsyncEngine.connect], ids=["session", "connection"])
async def test_commit_that_timed_out_in_the_write_is_not_taken_for_done_when_it_is_called_again(
    outbox_postgres_url: str, make: Callable[[AsyncEngine], Any]
) -> None:
    async_engine = create_async_engine(outbox_postgres_url)
    engine = create_engine(outbox_postgres_url)
    async with make(async_engine) as db:
        await db.execute(insert(ORDERS))
        enqueue(db, OUTBOX, "something_happened", "driver-1", {})
        with engine.begin() as migration:
            migration.execute(text(f"LOCK TABLE {OUTBOX.name}"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(db.commit(), 0.05)
        with pytest.raises(PendingRollbackError):
            await db.commit()
        await db.rollback()
        await db.execute(insert(ORDERS))
        kept = enqueue(db, OUTBOX, "something_happened", "driver-1", {})
        await db.commit()
    await async_engine.dispose()
    assert (count_orders(engine), stored_ids(engine)) == (1, [kept])
    engine.dispose()


def test_commit_of_what_only_a_rollback_could_end_says_so(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    with engine.connect() as connection:
        enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
        with suppress(DBAPIError):
            connection.execute(text("SELECT 1/0"))
        with pytest.raises(DBAPIError, match="current transaction is aborted"):
            connection.commit()
    assert stored_ids(engine) == []
    engine.dispose()
