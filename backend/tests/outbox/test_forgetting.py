"""A subject is forgotten with the caller's transaction; from its commit on, its events are refused unread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, Row, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from sqlalchemy_outbox.enqueueing import forgetting
from sqlalchemy_outbox.enqueueing.enqueue import AnySession, enqueue
from sqlalchemy_outbox.enqueueing.forgetting import ERASURE, ErasureWay, KeyMissing
from sqlalchemy_outbox.enqueueing.marks import NotForgotten
from sqlalchemy_outbox.model import REFUSED, Outbox
from tests.outbox.queue import TYPES

KEY = "k" * 32
ADDRESS = "ada@example.com"


@pytest.fixture
def named(outbox: Outbox) -> Iterator[Outbox]:
    """The outbox of a process that has the key."""
    outbox.names.use_key(KEY)
    yield outbox
    outbox.names.use_key("")


def forget(session: AnySession, outbox: Outbox, subject: str = "ada") -> None:
    forgetting.forget(session, outbox, subject, {"user_id": subject}, reason="she asked for it", way=ErasureWay.ERASE)


def put(session: AnySession, outbox: Outbox, *subjects: str, payload: object = None, error: str | None = None) -> None:
    for subject in subjects:
        enqueue(session, outbox, TYPES[0], subject, {"email": ADDRESS} if payload is None else payload, error=error)


def events_of(engine: Engine, outbox: Outbox) -> list[Row[Any]]:
    with engine.connect() as connection:
        return list(connection.execute(select(outbox.events).order_by(outbox.events.c.id)).all())


def is_refusal(event: Row[Any], outbox: Outbox) -> bool:
    """Born failed with its reason, and nothing of a person in it."""
    is_failed = event.failed_at is not None and event.attempt_count == 3
    is_empty = event.payload == "{}" and event.subject == outbox.names.of("ada")
    return is_failed and is_empty and (event.last_error, event.failure_reason) == (REFUSED, REFUSED)


def test_erasure_exists_if_and_only_if_its_transaction_commits(engine: Engine, named: Outbox) -> None:
    with Session(engine) as session:
        forget(session, named)
        session.rollback()
    with Session(engine) as session, session.begin():
        put(session, named, "ada")
    with Session(engine) as session, session.begin():
        forget(session, named)
        with session.begin_nested() as savepoint:
            forget(session, named, "eve")
            savepoint.rollback()
    first, erasure = events_of(engine, named)
    assert (first.subject, first.failed_at) == ("ada", None)
    assert (erasure.event_type, erasure.subject, erasure.failed_at) == (ERASURE, "ada", None)
    with engine.connect() as connection:
        [mark] = connection.execute(select(named.erasures)).all()
    assert (mark.name, mark.event_id, mark.erased_at) == (named.names.of("ada"), erasure.event_id, None)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_event_of_a_forgotten_subject_is_stored_as_a_refusal_without_personal_data(
    engine: Engine, named: Outbox, count: int
) -> None:
    with Session(engine) as session, session.begin():
        forget(session, named)
    with Session(engine) as session, session.begin():
        put(session, named, *["eve", "ada"] * count)
        put(session, named, "ada", payload="no object")
        put(session, named, "ada", error=f"{ADDRESS} is no address")
    _, *events = events_of(engine, named)
    assert [event.subject == "eve" for event in events] == [True, False] * count + [False, False]
    for event in events:
        if event.subject == "eve":
            assert (event.failed_at, event.payload) == (None, '{"email":"ada@example.com"}')
        else:
            assert is_refusal(event, named)


def test_event_of_the_transaction_that_forgets_is_refused_whichever_came_first(engine: Engine, named: Outbox) -> None:
    with engine.begin() as connection:
        put(connection, named, "ada", "eve")
        forget(connection, named)
        put(connection, named, "ada")
    first, others, erasure, last = events_of(engine, named)
    assert is_refusal(first, named)
    assert is_refusal(last, named)
    assert (others.subject, erasure.event_type, others.failed_at, erasure.failed_at) == ("eve", ERASURE, None, None)


async def test_async_session_forgets_without_an_await(async_engine: AsyncEngine, named: Outbox) -> None:
    async with AsyncSession(async_engine) as session, session.begin():
        forget(session, named)
    async with AsyncSession(async_engine) as session, session.begin():
        put(session, named, "ada")
    async with async_engine.connect() as connection:
        events = (await connection.execute(select(named.events).order_by(named.events.c.id))).all()
    assert events[0].event_type == ERASURE
    assert is_refusal(events[1], named)


def test_nothing_shows_the_key(named: Outbox) -> None:
    assert KEY not in f"{named} {named.names!r} {vars(KeyMissing())}"
    assert named.names.of("ada") != named.names.of("eve")
    assert KEY not in f"{named.names.of('ada')} {named.names.of_key()}"


def test_forgetting_twice_leaves_two_erasures(engine: Engine, named: Outbox) -> None:
    for _ in range(2):
        with Session(engine) as session, session.begin():
            forget(session, named)
    assert [(event.event_type, event.failed_at) for event in events_of(engine, named)] == [(ERASURE, None)] * 2


def test_nobody_is_forgotten_without_a_key_a_reason_or_a_subject(engine: Engine, outbox: Outbox) -> None:
    with Session(engine) as session, session.begin():
        with pytest.raises(KeyMissing, match="key"):
            forget(session, outbox)
        with pytest.raises(ValueError, match="31 characters"):
            outbox.names.use_key("k" * 31)
        outbox.names.use_key(KEY)
        try:
            with pytest.raises(ValueError, match="say why"):
                forgetting.forget(session, outbox, "ada", {}, reason=" ", way=ErasureWay.ERASE)
            with pytest.raises(ValueError, match="1 to 255"):
                forget(session, outbox, "a" * 256)
        finally:
            outbox.names.use_key("")
    assert events_of(engine, outbox) == []


@pytest.mark.parametrize("table", ["outbox_events", "outbox_events_erasures"])
def test_transaction_whose_erasure_cannot_be_written_fails(engine: Engine, named: Outbox, table: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO elsewhere"))
    with Session(engine) as session:
        session.execute(text("INSERT INTO orders (item) VALUES ('book')"))
        forget(session, named)
        with pytest.raises(Exception, match="outbox_events"):
            session.commit()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar_one() == 0


def test_transaction_in_which_nothing_is_atomic_forgets_nobody(engine: Engine, named: Outbox) -> None:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(autocommit) as session, pytest.raises(TypeError, match="AUTOCOMMIT"):
        forget(session, named)
    with Session(engine) as session:
        forget(session, named)
        with pytest.raises(NotForgotten, match="AUTOCOMMIT"):
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    assert events_of(engine, named) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("count", [1, 20])
def test_role_that_may_not_look_who_was_forgotten_loses_no_event(engine: Engine, named: Outbox, count: int) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox_events_erasures"))
        put(connection, named, *["ada"] * count)
    assert [event.subject for event in events_of(engine, named)] == ["ada"] * count


def test_process_without_a_key_writes_events_as_before(engine: Engine, outbox: Outbox) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox_events_erasures"))
    with engine.begin() as connection:
        put(connection, outbox, "ada")
    [event] = events_of(engine, outbox)
    assert (event.subject, event.failed_at) == ("ada", None)
