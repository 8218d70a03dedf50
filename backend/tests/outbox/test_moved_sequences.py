"""Guarantee 4 on a database that was moved without its sequences: no event is lost or goes before older ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.orm import Session

from instruments.statements import watch
from sqlalchemy_outbox.enqueueing import sequences
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.testing import RecordingDestination
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import TYPES, Queue
from tests.outbox.test_worker import eventually, running, worker_of


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(outbox_postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def queue(engine: Engine) -> Queue:
    return Queue(engine, OUTBOX)


@pytest.fixture(autouse=True)
def _unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once a minute may have been said in the test before."""
    monkeypatch.setattr(sequences, "_said_at", {})


def begin_anew(engine: Engine, table: str = "outbox_events") -> None:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER SEQUENCE {table}_id_seq RESTART"))


def forget(engine: Engine, *ids: int) -> None:
    with engine.begin() as connection:
        connection.execute(OUTBOX.events.delete().where(OUTBOX.events.c.id.in_(ids)))


def role_of(engine: Engine, *grants: str) -> Engine:
    """An engine of a role that has these rights and no others."""
    role = f"role_{engine.url.database}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        for grant in grants:
            connection.execute(text(f"GRANT {grant} TO {role}"))
    return create_engine(engine.url.set(username=role))


@pytest.fixture
def drop_role(engine: Engine) -> Iterator[None]:
    yield
    with engine.begin() as connection:
        connection.execute(text(f"DROP OWNED BY role_{engine.url.database}"))
        connection.execute(text(f"DROP ROLE role_{engine.url.database}"))


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
@pytest.mark.parametrize("were_purged", [False, True], ids=["taken", "purged"])
def test_event_after_a_restore_without_sequences_is_the_last_of_its_subject(
    queue: Queue, engine: Engine, driver: str, were_purged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ids = queue.put(*("a" for _ in range(30)))
    if were_purged:
        forget(engine, *ids[:20])
    begin_anew(engine)
    application = create_engine(engine.url.set(drivername=f"postgresql+{driver}"))
    (first,) = Queue(application, OUTBOX).put("a")
    many = Queue(application, OUTBOX).put(*("a" for _ in range(12)))
    application.dispose()
    assert ids[-1] < first < min(many)
    assert [message for message in caplog.messages if "lost" in message] == []
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "was moved" in warning


def test_ids_of_concurrent_transactions_are_no_alarm(
    queue: Queue, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    queue.put("a")
    with engine.connect() as slow:
        # One that has drawn its ids, and does not commit for long.
        slow.execute(text("SELECT nextval('outbox_events_id_seq') FROM generate_series(1, 20)"))
        queue.put("a", "b")
        with Session(slow) as session:
            enqueue(session, OUTBOX, TYPES[0], "a", {})
            session.commit()
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        with Session(engine.execution_options(isolation_level=level)) as session:
            session.execute(text("SELECT count(*) FROM outbox_events"))
            queue.put("a")
            enqueue(session, OUTBOX, TYPES[0], "c", {})
            session.commit()
    assert caplog.messages == []


@pytest.mark.usefixtures("drop_role")
@pytest.mark.parametrize("right", ["USAGE", "none"])
def test_role_that_may_not_move_the_sequence_chooses_ids(
    queue: Queue, engine: Engine, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = queue.put("a", "a", "a")
    forget(engine, ids[0])
    begin_anew(engine)
    usage = [] if right == "none" else [f"{right} ON SEQUENCE outbox_events_id_seq"]
    application = role_of(engine, "INSERT, SELECT ON outbox_events", *usage)
    for expected in (1, 2):
        with Session(application) as session:
            enqueue(session, OUTBOX, TYPES[0], "a", {})
            session.commit()
        with engine.connect() as connection:
            found = connection.execute(select(OUTBOX.events.c.id).order_by(OUTBOX.events.c.id)).scalars().all()
        assert found == [*ids[1:], *(ids[-1] + n for n in range(1, expected + 1))]
    application.dispose()
    [line] = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert "setval" in line


@pytest.mark.usefixtures("drop_role")
def test_role_that_may_neither_move_nor_choose_loses_its_event_with_the_remedy_and_others_are_delivered(
    queue: Queue, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    (id_,) = queue.put("a")
    begin_anew(engine)
    application = role_of(engine, "INSERT ON outbox_events")
    with Session(application) as session:
        enqueue(session, OUTBOX, TYPES[0], "a", {})
        session.commit()
    application.dispose()
    [line] = [message for message in caplog.messages if "is lost" in message]
    assert "setval" in line
    assert queue.claimed_ids() == [id_]


async def test_worker_moves_the_sequences_of_what_it_writes_itself(
    queue: Queue, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = RecordingDestination()
    async with running(worker_of(queue, recorder)):
        await asyncio.to_thread(queue.put, "a")
        await eventually(lambda: len(recorder.events) == 1)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO outbox_events_deliveries (id, started_at, duration_ms, endpoint, events, outcome) "
                "VALUES (500, now(), 1, 'e', 1, 'o')"
            )
        )
    async with running(worker_of(queue, recorder)):
        await eventually(lambda: "outbox_events_deliveries" in caplog.text)
    with engine.connect() as connection:
        assert list(sequences.behind(connection, OUTBOX)) == []
        assert connection.execute(text("SELECT nextval('outbox_events_deliveries_id_seq')")).scalar_one() > 500


def test_worker_looks_at_all_sequences_by_one_statement(engine: Engine, queue: Queue) -> None:
    queue.put("a")
    with watch(engine) as log, engine.begin() as connection:
        assert sequences.move(connection, OUTBOX) == []
    # In a savepoint.
    assert len(log.statements) == 3


def test_sequence_behind_is_found_though_the_role_may_not_read_other_tables(
    engine: Engine, queue: Queue, drop_role: None
) -> None:
    queue.put("a", "b")
    begin_anew(engine)
    application = role_of(engine, "SELECT ON outbox_events", "USAGE, SELECT ON SEQUENCE outbox_events_id_seq")
    with application.begin() as connection:
        found = [behind.table for behind in sequences.behind(connection, OUTBOX)]
    application.dispose()
    assert found == ["outbox_events"]


def test_events_that_share_an_id_of_their_own_are_no_moved_sequence(engine: Engine, queue: Queue) -> None:
    (id_,) = queue.put("a")
    event_id = queue.row(id_).event_id
    with Session(engine) as session:
        enqueue(session, OUTBOX, TYPES[0], "a", {}, event_id=event_id)
        session.commit()
    with engine.connect() as connection:
        assert list(sequences.behind(connection, OUTBOX)) == []
