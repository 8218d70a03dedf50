"""Guarantees 1 and 2: an event exists if and only if the caller's transaction commits, and never breaks it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, create_engine, event, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session, registry, scoped_session, sessionmaker

from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from tests.outbox.conftest import METADATA, ORDERS, OUTBOX, count_orders, stored_ids
from tests.protocol_trace import round_trips, traced


def add(session: Session, subject: str = "driver-1") -> UUID:
    return enqueue(session, OUTBOX, "something_happened", subject, {"n": 1})


def order(session: Session, item: str) -> None:
    session.execute(insert(ORDERS).values(item=item))


def lost_count() -> float:
    return REGISTRY.get_sample_value("outbox_events_lost_total") or 0.0


def test_event_of_a_committed_transaction_exists(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        event_id = add(session)
    assert stored_ids(engine) == [event_id]


def test_event_of_a_rolled_back_transaction_does_not_exist(engine: Engine) -> None:
    with Session(engine) as session:
        add(session)
        order(session, "a")
        session.rollback()
        session.commit()
    assert stored_ids(engine) == []


def test_event_of_a_request_that_raises_does_not_exist(engine: Engine) -> None:
    def request() -> None:
        with Session(engine) as session, session.begin():
            add(session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        request()
    assert stored_ids(engine) == []


def test_enqueue_neither_writes_nor_flushes_nor_commits(engine: Engine) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with Session(engine) as session:
        add(session)
        assert statements == []
        session.rollback()


def test_event_tracked_before_anything_else_dies_with_the_rollback_that_follows(engine: Engine) -> None:
    with Session(engine) as session:
        add(session)
        session.rollback()
        kept = add(session)
        session.commit()
    assert stored_ids(engine) == [kept]


def test_events_keep_the_order_in_which_they_were_tracked(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        expected = [add(session, f"driver-{n % 3}") for n in range(50)]
    assert stored_ids(engine) == expected


def test_rolled_back_savepoint_takes_only_its_own_events(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        before = add(session)
        savepoint = session.begin_nested()
        add(session)
        savepoint.rollback()
        after = add(session)
    assert stored_ids(engine) == [before, after]


def test_released_savepoint_keeps_its_events(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        with session.begin_nested():
            inner = add(session)
        outer = add(session)
    assert stored_ids(engine) == [inner, outer]


def test_events_of_a_released_savepoint_die_with_the_savepoint_around_it(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        first = add(session)
        outer = session.begin_nested()
        with session.begin_nested():
            add(session)
        outer.rollback()
    assert stored_ids(engine) == [first]


def test_savepoint_left_open_at_commit_keeps_its_events(engine: Engine) -> None:
    with Session(engine) as session:
        outer = add(session)
        session.begin_nested()
        inner = add(session)
        session.commit()
    assert stored_ids(engine) == [outer, inner]


def test_rollback_of_the_whole_takes_the_events_of_open_savepoints_too(engine: Engine) -> None:
    with Session(engine) as session:
        add(session)
        session.begin_nested()
        add(session)
        session.begin_nested()
        add(session)
        session.rollback()  # The innermost one.
        session.rollback()
        session.rollback()
        session.commit()
    assert stored_ids(engine) == []


def test_one_session_commits_each_transactions_events_once(engine: Engine) -> None:
    with Session(engine) as session:
        first = add(session)
        session.commit()
        second = add(session)
        session.commit()
        session.commit()
    assert stored_ids(engine) == [first, second]


def test_event_tracked_while_the_commit_flushes_is_written(engine: Engine) -> None:
    tracked: list[UUID] = []
    sessions = sessionmaker(engine)

    class Order:
        pass

    with mapped(Order):
        event.listen(sessions, "after_flush", lambda session, _: tracked.append(add(session)))
        with sessions() as session:
            session.add(Order())
            session.commit()
    assert stored_ids(engine) == tracked
    assert len(tracked) == 1


def test_event_tracked_by_a_flush_that_a_later_hook_of_the_commit_causes_is_written(engine: Engine) -> None:
    tracked: list[UUID] = []

    class Order:
        pass

    with mapped(Order), Session(engine) as session:
        add(session)
        event.listen(session, "before_commit", lambda session: session.add(Order()))
        event.listen(session, "after_flush", lambda session, _: tracked.append(add(session)))
        session.commit()
    assert len(tracked) == 1
    assert stored_ids(engine)[1:] == tracked


@contextmanager
def mapped(cls: type) -> Iterator[None]:
    mappings = registry()
    mappings.map_imperatively(cls, ORDERS)
    yield
    mappings.dispose()


def test_events_of_a_failed_flush_die_with_their_transaction(engine: Engine) -> None:
    with Session(engine) as session:
        order(session, "a")
        session.commit()
        add(session)
        with pytest.raises(IntegrityError):
            order(session, "a")
        session.rollback()
        kept = add(session)
        session.commit()
    assert stored_ids(engine) == [kept]


def test_session_joined_to_an_outer_transaction_shares_its_fate(engine: Engine) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            add(session)
            session.commit()
        outer.rollback()
        assert stored_ids(engine) == []
        with connection.begin(), Session(connection, join_transaction_mode="create_savepoint") as session:
            kept = add(session)
            session.commit()
    assert stored_ids(engine) == [kept]


def test_session_that_ends_without_commit_or_rollback_says_so(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    session = Session(engine)
    event_id = add(session)
    session.close()
    assert stored_ids(engine) == []
    assert [it.levelno for it in caplog.records] == [logging.WARNING]
    assert str(event_id) in caplog.text


def test_scoped_session_is_taken_like_its_session(engine: Engine) -> None:
    sessions = scoped_session(sessionmaker(engine))
    event_id = enqueue(sessions, OUTBOX, "something_happened", "driver-1", {})
    sessions.commit()
    sessions.remove()
    assert stored_ids(engine) == [event_id]


def test_ten_thousand_events_in_one_transaction_arrive_whole_and_in_order(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        expected = [add(session) for _ in range(10_000)]
    assert stored_ids(engine) == expected


def test_more_text_than_one_query_takes_arrives_whole_and_in_order(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlalchemy_outbox.enqueueing.insertion._ARRAY_CHARS_MAX", 1000)
    with Session(engine) as session, session.begin():
        expected = [add(session) for _ in range(30)]
    assert stored_ids(engine) == expected


@pytest.mark.parametrize("undeliverable", range(3))
def test_event_that_can_never_be_delivered_keeps_its_place_among_those_that_can(
    engine: Engine, undeliverable: int
) -> None:
    with Session(engine) as session, session.begin():
        expected = [
            enqueue(session, OUTBOX, "something_happened", "driver-1", {"n": n}, error="no" * (n == undeliverable))
            for n in range(3)
        ]
    assert stored_ids(engine) == expected
    with engine.connect() as connection:
        failed = connection.execute(select(OUTBOX.events.c.event_id).where(OUTBOX.events.c.failed_at.is_not(None)))
        assert list(failed.scalars()) == [expected[undeliverable]]


def test_texts_are_stored_in_a_session_whose_encoding_has_no_letters_for_them(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url, connect_args={"client_encoding": "latin1"})
    with Session(engine) as session, session.begin():
        enqueue(session, OUTBOX, "aufgeladen \u26a1", "Z\u00fcrich \u26a1", {"place": "\u26a1"})
    engine.dispose()
    other = create_engine(outbox_postgres_url)
    with other.connect() as connection:
        row = connection.execute(select(OUTBOX.events)).one()
    assert (row.event_type, row.subject) == ("aufgeladen \u26a1", "Z\u00fcrich \u26a1")
    assert json.loads(row.payload) == {"place": "\u26a1"}
    other.dispose()


def test_write_that_fails_before_it_is_sent_costs_the_events_and_not_the_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_rows: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sqlalchemy_outbox.enqueueing.insertion._arrays", fail)
    before = lost_count()
    with Session(engine) as session, session.begin():
        order(session, "a")
        for _ in range(20):
            add(session)
    assert count_orders(engine) == 1
    assert stored_ids(engine) == []
    assert lost_count() == before + 20


def test_plain_engine_is_as_atomic_as_a_configured_one(empty_database_url: str) -> None:
    """SQLite as Python ships it would commit at the savepoint's release."""
    engine = create_engine(empty_database_url)
    METADATA.create_all(engine)
    with Session(engine) as session:
        session.execute(select(ORDERS)).all()
        add(session)
        event.listen(session, "before_commit", refuse_commit)
        with pytest.raises(ZeroDivisionError):
            session.commit()
        session.rollback()
        session.close()
    assert stored_ids(engine) == []
    with Session(engine) as session, session.begin():
        kept = add(session)
    assert stored_ids(engine) == [kept]
    engine.dispose()


def refuse_commit(session: Session) -> None:
    raise ZeroDivisionError


def test_write_on_a_plain_engine_is_seen_by_nobody_before_the_commit(empty_database_url: str) -> None:
    engine, other = create_engine(empty_database_url), create_engine(empty_database_url)
    METADATA.create_all(engine)
    seen: list[list[UUID]] = []
    # The last thing before COMMIT, and so after the write.
    event.listen(engine, "commit", lambda _: seen.append(stored_ids(other)))
    with Session(engine) as session:
        session.execute(select(ORDERS)).all()
        kept = add(session)
        session.commit()
    assert seen == [[]]
    assert stored_ids(other) == [kept]
    engine.dispose()
    other.dispose()


def test_missing_table_costs_the_event_and_not_the_request(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    OUTBOX.events.drop(engine)
    before = lost_count()
    with Session(engine) as session, session.begin():
        order(session, "a")
        event_id = add(session, "driver-7")
    assert count_orders(engine) == 1
    assert lost_count() == before + 1
    (record,) = [it for it in caplog.records if it.name == "sqlalchemy_outbox.enqueue"]
    assert record.levelno == logging.ERROR
    assert str(event_id) in record.getMessage()
    assert "something_happened of driver-7" in record.getMessage()


@pytest.mark.parametrize("commits_before", [0, 2, 5, 6])
def test_table_that_is_missing_for_long_breaks_no_request_and_takes_events_again_once_it_is_back(
    engine: Engine, commits_before: int
) -> None:
    """All on one connection, whose driver prepares what it is given more than five times."""

    def request(item: str) -> UUID:
        with Session(engine) as session, session.begin():
            order(session, item)
            return add(session)

    other = create_engine(engine.url)
    kept = [request(f"before {n}") for n in range(commits_before)]
    with other.begin() as connection:
        connection.execute(text("ALTER TABLE outbox_events RENAME TO away"))
    for n in range(8):
        request(f"meanwhile {n}")
    with other.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO outbox_events"))
    kept += [request(f"after {n}") for n in range(8)]
    assert count_orders(engine) == commits_before + 16
    assert stored_ids(engine) == kept
    other.dispose()


@pytest.mark.parametrize("events", [2, 20, 200])
def test_refused_row_costs_all_its_transactions_events_and_not_the_request(
    engine: Engine, events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one short query, in one with an array of rows, and in one after another."""
    monkeypatch.setattr("sqlalchemy_outbox.enqueueing.insertion._ARRAY_CHARS_MAX", 20_000)
    before = lost_count()
    with Session(engine) as session, session.begin():
        order(session, "a")
        event_id = [add(session) for _ in range(events - 1)][-1]
        enqueue(session, OUTBOX, "something_happened", "driver-1", {}, event_id=event_id)
    assert count_orders(engine) == 1
    assert stored_ids(engine) == []
    assert lost_count() == before + events


def test_locked_table_is_waited_for_one_second(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    with engine.begin() as migration:
        migration.execute(text("LOCK TABLE outbox_events IN ACCESS EXCLUSIVE MODE"))
        with Session(engine) as session, session.begin():
            order(session, "a")
            add(session)
            commit_began = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        with engine.connect() as connection:
            waited = connection.execute(
                text("SELECT extract(epoch FROM clock_timestamp() - :began)"), {"began": commit_began}
            ).scalar_one()
    assert count_orders(engine) == 1
    assert stored_ids(engine) == []
    assert 0.9 <= waited < 5
    engine.dispose()


def test_callers_lock_timeout_is_left_as_it_was(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    seen: list[str] = []
    # The last thing before COMMIT, and so after the write.
    event.listen(engine, "commit", lambda it: seen.append(it.execute(text("SHOW lock_timeout")).scalar_one()))
    with engine.connect() as connection, connection.begin():
        connection.execute(text("SET LOCAL lock_timeout = '7s'"))
        with Session(connection, join_transaction_mode="rollback_only") as session:
            add(session)
            session.commit()
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "7s"
    assert seen == ["7s"]
    assert len(stored_ids(engine)) == 1
    engine.dispose()


def test_commit_stands_where_no_thread_can_be_started_to_tell_of_it(
    outbox_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = create_engine(outbox_postgres_url)
    with monkeypatch.context() as full:
        full.setattr("threading.Thread.start", refuse)
        for _ in range(2):
            with Session(engine) as session, session.begin():
                add(session)
    assert len(stored_ids(engine)) == 2
    engine.dispose()


def test_lost_connection_is_the_requests_own_failure(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    with Session(engine) as session:
        order(session, "a")
        add(session)
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(OperationalError):
            session.commit()
    assert count_orders(engine) == 0
    assert stored_ids(engine) == []
    engine.dispose()


def test_transaction_that_sqlite_rolls_back_whole_is_the_requests_own_failure(sqlite_url: str) -> None:
    """As a full disk does. Committing what is left would be a commit of nothing, and look like success."""
    engine = create_engine(sqlite_url)
    configure_engine(engine)
    METADATA.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON outbox_events BEGIN SELECT RAISE(ROLLBACK, 'disk is full'); END")
        )
    with Session(engine) as session:
        order(session, "a")
        add(session)
        with pytest.raises(DBAPIError):
            session.commit()
    assert count_orders(engine) == 0
    engine.dispose()


def test_disk_with_no_room_for_the_event_costs_the_event_alone(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    configure_engine(engine)
    METADATA.create_all(engine)
    with Session(engine) as session:
        order(session, "a")
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
        enqueue(session, OUTBOX, "something_happened", "driver-1", {"text": "x" * 60_000})
        session.commit()
    assert count_orders(engine) == 1
    assert stored_ids(engine) == []
    engine.dispose()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"n": float("nan")}, "no JSON"),
        ({"n": object()}, "no JSON"),
        ({1, 2}, "no JSON"),
        (["a"], "list"),
        ("text", "str"),
        (None, "NoneType"),
        ({"text": "x" * 70_000}, "65536"),
        ({"text": "x" * 2_000_000}, "65536"),
    ],
)
def test_undeliverable_payload_is_stored_as_failed(engine: Engine, payload: object, reason: str) -> None:
    with Session(engine) as session, session.begin():
        enqueue(session, OUTBOX, "something_happened", "driver-1", payload)
    with engine.connect() as connection:
        row = connection.execute(select(OUTBOX.events)).one()
    assert row.failed_at is not None
    assert row.attempt_count == 3
    assert reason in row.last_error
    assert len(row.payload) < 1_100_000


@pytest.mark.parametrize("text_", ["\0", "\ud800", "🔌 Ladepunkt", "\\u0000", '"', "'", "100 %s"])
def test_any_text_is_stored_and_comes_back(engine: Engine, text_: str) -> None:
    """What a database refuses in text is written as JSON escapes, so no row can spoil the others' insert."""
    with Session(engine) as session, session.begin():
        enqueue(session, OUTBOX, f"type{text_}", f"subject{text_}", {"text": text_})
    with engine.connect() as connection:
        row = connection.execute(select(OUTBOX.events)).one()
    assert json.loads(row.payload) == {"text": text_}
    assert row.payload.isascii()
    assert row.subject.startswith("subject")
    assert row.failed_at is None


@pytest.mark.parametrize("subject", [None, "", "x" * 256])
def test_event_without_a_usable_subject_is_failed_and_stands_alone(engine: Engine, subject: str | None) -> None:
    with Session(engine) as session, session.begin():
        event_id = enqueue(session, OUTBOX, "something_happened", subject, {})
    with engine.connect() as connection:
        row = connection.execute(select(OUTBOX.events)).one()
    assert row.subject == str(event_id)
    assert row.failed_at is not None


def test_two_transactions_that_track_the_same_drivers_in_opposite_order_do_not_wait_for_each_other(
    outbox_postgres_url: str,
) -> None:
    engine = create_engine(outbox_postgres_url)
    both_written = threading.Barrier(2, timeout=10)
    # The last thing before COMMIT, and so after the write.
    event.listen(engine, "commit", lambda _: both_written.wait())

    def track(subjects: list[str]) -> None:
        with Session(engine) as session:
            for subject in subjects:
                add(session, subject)
            session.commit()

    threads = [threading.Thread(target=track, args=(it,)) for it in (["a", "b"], ["b", "a"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(stored_ids(engine)) == 4
    engine.dispose()


def test_events_of_a_transaction_cost_one_round_trip(outbox_postgres_url: str, tmp_path: Path) -> None:
    engine = create_engine(outbox_postgres_url)

    def commit_round_trips(events: int) -> int:
        with Session(engine) as session:
            order(session, f"with {events}")
            for _ in range(events):
                add(session)
            with traced(session, tmp_path / f"{events}.trace") as trace:
                session.commit()
        return round_trips(trace)

    none, one, many = (commit_round_trips(n) for n in (0, 1, 500))
    assert (none, one, many) == (1, 2, 2)
    assert len(stored_ids(engine)) == 501
    engine.dispose()
