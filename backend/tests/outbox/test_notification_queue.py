"""PostgreSQL's queue of notifications that was full: it stays so until somebody asks, which whoever notifies does."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import create_engine, make_url

from instruments.urls import plain_url
from sqlalchemy_outbox.waking.notifier import Notifier
from sqlalchemy_outbox.waking.plain_notifier import PlainNotifier

CHANNEL = "outbox_events"
AT_ONCE_SECONDS = 5
PAGES = 64


@pytest.fixture
def url(postgres_url: str) -> str:
    with psycopg.connect(plain_url(make_url(postgres_url))) as connection:
        if connection.info.server_version < 170000:
            pytest.skip("before PostgreSQL 17 its queue has 8 GB")
        pages = connection.execute("SHOW max_notify_queue_pages").fetchone()
        if pages != (str(PAGES),):
            pytest.skip(f"the queue of this server takes long to fill: {pages}")
    return postgres_url


@pytest.fixture
def plain(url: str) -> Iterator[str]:
    """Of a server whose queue has been filled, and where nothing holds it up any more."""
    plain = plain_url(make_url(url))
    with psycopg.connect(plain, autocommit=True) as holding, psycopg.connect(plain, autocommit=True) as filling:
        holding.execute("LISTEN elsewhere")
        holding.execute("BEGIN")
        holding.execute("SELECT 1")
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            fill(filling)
    yield plain
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("SELECT pg_notification_queue_usage()")


def fill(connection: psycopg.Connection) -> None:
    for n in range(PAGES * 2):
        connection.execute("SELECT pg_notify('elsewhere', %s)", [f"{n:07900}"])


@pytest.mark.parametrize(("driver", "kind"), [("psycopg", Notifier), ("pg8000", PlainNotifier)])
def test_commit_wakes_others_once_nothing_holds_up_the_queue_that_was_full(
    plain: str, url: str, driver: str, kind: type[Notifier] | type[PlainNotifier]
) -> None:
    engine = create_engine(make_url(url).set(drivername=f"postgresql+{driver}"))
    notifier = kind(engine, CHANNEL)
    with psycopg.connect(plain, autocommit=True) as listening:
        listening.execute(f"LISTEN {CHANNEL}")
        notifier.notify()
        assert len(list(listening.notifies(timeout=AT_ONCE_SECONDS, stop_after=1))) == 1
    notifier.close()
    engine.dispose()
