"""A timeout around commit() says that no answer came, and not that nothing was stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, event, insert, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from tests.outbox.conftest import ORDERS, OUTBOX, count_orders, stored_ids
from tests.outbox.test_worker import eventually
from tests.proxy import proxied

LONGEST_SECONDS = 0.2


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(outbox_postgres_url)
    yield engine
    engine.dispose()


async def test_row_and_event_of_a_commit_that_timed_out_are_stored_together(
    engine: Engine, outbox_postgres_url: str
) -> None:
    with proxied(outbox_postgres_url) as (proxy, url):
        application = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), poolclass=NullPool)
        session = AsyncSession(application)
        await session.execute(insert(ORDERS).values(item="a"))
        event_id = enqueue(session, OUTBOX, "something_happened", "driver-1", {})
        loop, timeout = asyncio.get_running_loop(), asyncio.timeout(None)

        def lose_the_answer(_: object) -> None:
            """The server hears the COMMIT that comes now; time runs from here on, however long the write took."""
            proxy.deafen()
            timeout.reschedule(loop.time() + LONGEST_SECONDS)
            # SQLAlchemy waits 2 s for such a connection's end otherwise.
            loop.call_later(2 * LONGEST_SECONDS, proxy.reset)

        event.listen(application.sync_engine, "commit", lose_the_answer)
        with pytest.raises(TimeoutError):
            async with timeout:
                await session.commit()
        await eventually(lambda: count_orders(engine) == 1)
        assert stored_ids(engine) == [event_id]
        await session.close()
        await application.dispose()
