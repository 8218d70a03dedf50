"""Guarantee 1 in every form in which SQLAlchemy's sessions can be used: no row commits without its event."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Connection, Engine, create_engine, event, insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SAWarning
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.waking import wakeup
from tests.conftest import missing_tool
from tests.outbox.conftest import HOOKS, METADATA, ORDERS, OUTBOX, count_orders, stored_ids
from tests.outbox.test_enqueue import add, lost_count, mapped, order


def enqueued_count() -> float:
    labels = {"outbox": OUTBOX.name, "event_type": "something_happened"}
    return REGISTRY.get_sample_value("outbox_events_enqueued_total", labels) or 0.0


def open_and_use(session: Session) -> None:
    session.begin_nested()
    order(session, "in a savepoint")


@pytest.mark.parametrize("leave_open", [Session.begin_nested, open_and_use], ids=["unused", "used"])
def test_savepoint_left_open_by_whoever_commits_the_outer_transaction_keeps_its_events(
    engine: Engine, leave_open: Callable[[Session], object]
) -> None:
    expected = []
    with Session(engine) as session, session.begin():
        expected.append(add(session))
        leave_open(session)
        expected.append(add(session))
    with engine.begin() as connection:
        connection.execute(ORDERS.delete())
    with sessionmaker(engine).begin() as session:
        expected.append(add(session))
        leave_open(session)
        leave_open(session) if leave_open is Session.begin_nested else session.begin_nested()
        expected.append(add(session))
    with engine.begin() as connection:
        connection.execute(ORDERS.delete())
    with Session(engine) as session:
        transaction = session.begin()
        leave_open(session)
        expected.append(add(session))
        transaction.commit()
    assert stored_ids(engine) == expected


def test_savepoint_that_is_set_only_when_it_is_used_takes_its_events_when_it_is_rolled_back(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        before = add(session)
        outer = session.begin_nested()
        add(session)
        with session.begin_nested():
            add(session)
            order(session, "a")
            add(session)
        outer.rollback()
        after = add(session)
    assert stored_ids(engine) == [before, after]
    assert count_orders(engine) == 0


def test_savepoint_closed_with_another_within_it_takes_no_later_event_along(engine: Engine) -> None:
    with Session(engine) as session:
        outer = session.begin_nested()
        session.begin_nested()
        outer.close()
        kept = add(session)
        order(session, "a")
        session.commit()
    assert (count_orders(engine), stored_ids(engine)) == (1, [kept])


def only_track(session: Session, tracked: list[UUID]) -> None:
    tracked.append(add(session))


def run_core_and_track(session: Session, tracked: list[UUID]) -> None:
    session.connection().execute(insert(ORDERS).values(item="by the listener"))
    tracked.append(add(session))


@pytest.mark.parametrize("listener", [only_track, run_core_and_track])
@pytest.mark.parametrize("target", ["sessionmaker", "subclass", "instance"])
@pytest.mark.parametrize("has_row", [True, False])
def test_event_tracked_by_a_listener_of_before_commit_is_written(
    engine: Engine, listener: Callable[[Session, list[UUID]], None], target: str, has_row: bool
) -> None:
    tracked: list[UUID] = []

    class OwnSession(Session):
        pass

    sessions = sessionmaker(engine, class_=OwnSession)
    with sessions() as session:
        targets = {"sessionmaker": sessions, "subclass": OwnSession, "instance": session}
        event.listen(targets[target], "before_commit", lambda session: listener(session, tracked))
        if has_row:
            order(session, "a")
        session.commit()
    assert stored_ids(engine) == tracked
    assert len(tracked) == 1


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("undo", [True, False], ids=["rolled back", "committed"])
def test_event_tracked_in_a_savepoint_at_any_hook_shares_the_savepoints_fate_or_is_refused(
    engine: Engine, hook: str, undo: bool
) -> None:
    class Order:
        pass

    accepted: list[UUID] = []

    def track(session: Session, *_: object) -> None:
        if is_listening:
            with suppress(TypeError):
                accepted.append(add(session))

    sessions = sessionmaker(engine)
    event.listen(sessions, hook, track)
    is_listening = False
    with mapped(Order), sessions() as session:
        order(session, "outside")
        is_listening = True
        savepoint = session.begin_nested()
        session.add(Order())
        session.flush()
        if undo:
            savepoint.rollback()
        else:
            savepoint.commit()
        is_listening = False
        session.commit()
    stored = stored_ids(engine)
    assert count_orders(engine) == (1 if undo else 2)
    if not undo:
        assert stored == accepted
    elif hook in ("after_soft_rollback", "after_transaction_end"):
        # The savepoint is gone by then; what was tracked when the flush within it ended is gone with it.
        assert stored == accepted[-1:]
    elif hook != "after_transaction_create":
        assert stored == []


def test_event_tracked_in_after_begin_belongs_to_what_has_just_begun(engine: Engine) -> None:
    """One statement sets several savepoints, and each tells of itself."""
    tracked: list[UUID] = []

    def buy(session: Session, _transaction: object, connection: Connection) -> None:
        connection.execute(insert(ORDERS).values(item=str(len(tracked))))
        tracked.append(add(session))

    with Session(engine) as session:
        event.listen(session, "after_begin", buy)
        session.begin_nested()
        savepoint = session.begin_nested()
        session.execute(text("SELECT 1"))
        savepoint.rollback()
        session.commit()
    assert len(tracked) == 3
    assert stored_ids(engine) == tracked[:2]
    assert count_orders(engine) == 2


def test_event_tracked_after_the_commit_is_refused_with_the_remedy(engine: Engine) -> None:
    with Session(engine) as session:
        event.listen(session, "after_commit", add)
        order(session, "a")
        with pytest.raises(TypeError, match="before_commit"):
            session.commit()
    assert count_orders(engine) == 1


def test_event_tracked_after_prepare_is_refused_and_one_before_is_kept(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    require_two_phases(engine)
    with Session(engine, twophase=True) as session:
        order(session, "a")
        kept = add(session)
        session.prepare()
        with pytest.raises(TypeError, match=r"before prepare\(\)"):
            add(session)
        session.commit()
    with Session(engine, twophase=True) as session:
        order(session, "b")
        session.prepare()
        with pytest.raises(TypeError, match=r"before prepare\(\)"):
            add(session)
        session.commit()
    with Session(engine, twophase=True) as session:
        session.prepare()
        with pytest.raises(TypeError, match=r"before prepare\(\)"):
            add(session)
        session.commit()
    with Session(engine, twophase=True) as session:
        order(session, "c")
        add(session)
        session.prepare()
        session.rollback()
    assert count_orders(engine) == 2
    assert stored_ids(engine) == [kept]
    engine.dispose()


def require_two_phases(engine: Engine) -> None:
    with engine.connect() as connection:
        if connection.execute(text("SHOW max_prepared_transactions")).scalar_one() == "0":
            missing_tool("the server has max_prepared_transactions = 0")


JOINED = ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]


@pytest.mark.parametrize("mode", JOINED)
@pytest.mark.parametrize("end", [Session.commit, Session.close, Session.rollback])
@pytest.mark.parametrize("is_nested", [True, False], ids=["in a savepoint", "in none"])
def test_event_of_a_joined_session_shares_the_fate_of_its_rows(
    engine: Engine, mode: str, end: Callable[[Session], None], is_nested: bool
) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        if is_nested:
            connection.begin_nested()
        session = Session(connection, join_transaction_mode=mode)  # type: ignore[arg-type]
        event_id = add(session)
        order(session, "a")
        end(session)
        session.close()
        if outer.is_active:
            outer.commit()
    assert stored_ids(engine) == ([event_id] if count_orders(engine) else [])


def test_joined_session_tells_of_its_events_when_the_outer_transaction_commits(engine: Engine) -> None:
    wake_event = wakeup.WakeEvent()
    wakeup.subscribe(OUTBOX, wake_event)
    rings: list[None] = []
    counted = enqueued_count()
    with wake_event.waking(lambda: rings.append(None)), engine.connect() as connection:
        for end, expected in (("rollback", 0), ("commit", 1)):
            outer = connection.begin()
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                add(session)
                session.commit()
            assert (len(rings), enqueued_count() - counted) == (0, 0)
            getattr(outer, end)()
            assert (len(rings), enqueued_count() - counted) == (expected, expected)


@pytest.mark.parametrize("is_used", [True, False])
def test_event_shares_the_fate_of_what_the_sessions_connection_does_by_itself(engine: Engine, is_used: bool) -> None:
    with Session(engine) as session:
        if is_used:
            order(session, "a")
        connection = session.connection()
        kept = [add(session)]
        savepoint = connection.begin_nested()
        add(session)
        savepoint.rollback()
        kept.append(add(session))
        connection.commit()
    assert stored_ids(engine) == kept


def test_session_without_an_engine_for_the_outbox_is_refused_with_the_remedy(engine: Engine) -> None:
    with Session(binds={ORDERS: engine}) as session:
        order(session, "a")
        with pytest.raises(TypeError, match=r"outbox_events.*binds"):
            add(session)
        session.commit()
    assert count_orders(engine) == 1
    with Session(binds={ORDERS: engine, OUTBOX.events: engine}) as session:
        order(session, "b")
        kept = add(session)
        session.commit()
    assert stored_ids(engine) == [kept]


def test_session_that_cannot_route_the_outbox_is_refused_with_a_remedy_that_works(engine: Engine) -> None:
    class Routed(Session):
        def get_bind(self, mapper: Any = None, bind: Any = None, **_: object) -> Any:  # type: ignore[override]
            return bind or {"Order": engine}[mapper.class_.__name__]

    shard: Any = {"shard_chooser": lambda *_, **__: "a", "execute_chooser": lambda _: ["a"]}
    sharded = ShardedSession(shards={"a": engine}, identity_chooser=lambda *_, **__: ["a"], **shard)
    for session, arguments in ((Routed(), {"bind": engine}), (sharded, {"shard_id": "a"})):
        with session:
            with pytest.raises(TypeError, match=r"outbox_events.*session\.connection"):
                add(session)
            kept = enqueue(session.connection(bind_arguments=arguments), OUTBOX, "something_happened", "driver-1", {})
            session.commit()
        assert stored_ids(engine)[-1] == kept


def test_session_that_is_not_to_begin_by_itself_is_left_to_begin(engine: Engine) -> None:
    with Session(engine, autobegin=False) as session:
        with pytest.raises(TypeError, match=r"session\.begin\(\)"):
            add(session)
        with session.begin():
            order(session, "a")
            kept = add(session)
    assert stored_ids(engine) == [kept]


def test_sessions_that_hand_on_what_they_hold_keep_their_events_apart(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    first = Session(engine)
    kept = [add(first)]
    second = Session(engine, info=first.info)
    add(second)
    order(second, "a")
    second.rollback()
    third = Session(engine, info=first.info)
    kept.append(add(third))
    first.commit()
    # As SQLAlchemy's documentation has it of `using_bind`.
    vars(fourth := Session()).update(vars(third))
    kept.append(add(fourth))
    fourth.commit()
    order(third, "b")
    kept.append(add(third))
    third.commit()
    assert stored_ids(engine) == kept
    engine.dispose()


@pytest.mark.parametrize("hook", ["after_transaction_create", "after_begin", "before_commit", "after_commit"])
def test_listener_that_is_told_before_the_outbox_is_has_its_event_kept_or_refused(engine: Engine, hook: str) -> None:
    class Told(Session):
        pass

    kept: list[UUID] = []

    def track(session: Session, *_: object) -> None:
        if not kept:
            kept.append(UUID(int=0))
            kept[0] = add(session)

    event.listen(Told, hook, track, insert=True)
    with Told(engine) as session:
        session.execute(insert(ORDERS))
        if hook == "after_commit":
            with pytest.raises(TypeError, match="committed already"):
                session.commit()
            kept.clear()
        else:
            session.commit()
    assert (count_orders(engine), stored_ids(engine)) == (1, kept)


@pytest.mark.parametrize(
    "isolated",
    [
        lambda url: create_engine(url, isolation_level="AUTOCOMMIT"),
        lambda url: create_engine(url).execution_options(isolation_level="AUTOCOMMIT"),
    ],
    ids=["engine", "options"],
)
def test_event_on_an_autocommit_engine_is_refused_and_the_request_goes_on(
    database_url: str, isolated: Callable[[str], Engine]
) -> None:
    engine = isolated(database_url)
    for first in (order, lambda session, _item: None):
        with Session(engine) as session:
            first(session, "a")
            with pytest.raises(TypeError, match="isolation_level"):
                add(session)
            session.commit()
    with engine.connect() as connection, pytest.raises(TypeError, match="isolation_level"):
        enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
    assert count_orders(engine) == 1
    engine.dispose()


def test_event_of_a_connection_that_turns_out_to_be_in_autocommit_is_lost_and_the_request_goes_on(
    outbox_postgres_url: str,
) -> None:
    engine = create_engine(outbox_postgres_url, connect_args={"autocommit": True})
    before = lost_count()
    with Session(engine) as session:
        add(session)
        order(session, "a")
        with pytest.raises(TypeError, match="isolation_level"):
            add(session)
        session.commit()
    assert (count_orders(engine), stored_ids(engine)) == (1, [])
    assert lost_count() == before + 1
    engine.dispose()


def test_one_session_in_autocommit_by_its_connections_options_is_refused(engine: Engine) -> None:
    with Session(engine) as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(TypeError, match="isolation_level"):
            add(session)


def test_serialization_failure_is_the_requests_own_and_no_event_is_called_lost(
    outbox_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(outbox_postgres_url, isolation_level="SERIALIZABLE")
    before = lost_count()
    with Session(engine) as first, Session(engine) as second:
        for session, item in ((first, "a"), (second, "b")):
            session.execute(text("SELECT count(*) FROM orders")).all()
            order(session, item)
            add(session)
        first.commit()
        with pytest.raises(DBAPIError) as failed:
            second.commit()
        assert getattr(failed.value.orig, "sqlstate", None) == "40001"
        second.rollback()
    assert count_orders(engine) == 1
    assert len(stored_ids(engine)) == 1
    assert lost_count() == before
    assert caplog.records == []
    engine.dispose()


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_deadlock_or_serialization_failure_of_the_write_fails_the_commit_as_any_statement_would(
    outbox_postgres_url: str, state: str
) -> None:
    engine = create_engine(outbox_postgres_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
            )
        )
        connection.execute(text("CREATE TRIGGER t BEFORE INSERT ON outbox_events EXECUTE FUNCTION refuse()"))
    before = lost_count()
    for use in (Session, Engine.connect):
        with use(engine) as db:
            db.execute(insert(ORDERS).values(item="a"))
            enqueue(db, OUTBOX, "something_happened", "driver-1", {})
            with pytest.raises(OperationalError):
                db.commit()
            db.rollback()
            db.execute(insert(ORDERS).values(item=use.__name__))
            db.commit()
    assert count_orders(engine) == 2
    assert lost_count() == before
    engine.dispose()


def test_failed_request_leaves_no_warning(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def request() -> None:
        with Session(engine) as session:
            order(session, "a")
            add(session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        request()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert stored_ids(engine) == []


@pytest.mark.parametrize("is_used", [True, False])
def test_session_dropped_without_close_says_so(engine: Engine, caplog: pytest.LogCaptureFixture, is_used: bool) -> None:
    sessions = scoped_session(sessionmaker(engine))
    if is_used:
        sessions.execute(insert(ORDERS).values(item="a"))
    event_id = enqueue(sessions, OUTBOX, "something_happened", "driver-1", {})
    del sessions
    gc.collect()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(event_id) in caplog.text
    assert stored_ids(engine) == []


def test_two_sessions_on_one_connection_share_its_transaction(engine: Engine) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as first:
            kept = [add(first)]
            order(first, "a")
            first.commit()
        with Session(connection, join_transaction_mode="create_savepoint") as second:
            add(second)
            order(second, "b")
            second.rollback()
            kept.append(add(second))
            second.commit()
        outer.commit()
    assert stored_ids(engine) == kept
    assert count_orders(engine) == 1


def test_write_that_is_followed_by_a_failed_commit_is_rolled_back_with_the_rows(outbox_postgres_url: str) -> None:
    """The write comes last, so that what can fail after it is the COMMIT itself."""
    engine = create_engine(outbox_postgres_url)
    counted = enqueued_count()
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE orders ADD next int REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED DEFAULT 0")
        )
    for use in (Session, Engine.connect):
        with use(engine) as db:
            db.execute(insert(ORDERS).values(item="a"))
            enqueue(db, OUTBOX, "something_happened", "driver-1", {})
            with pytest.raises(DBAPIError, match="foreign key"):
                db.commit()
    assert (count_orders(engine), stored_ids(engine)) == (0, [])
    assert enqueued_count() == counted
    engine.dispose()


def test_failed_write_is_no_loss_where_the_transaction_does_not_commit(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    before = lost_count()
    OUTBOX.events.drop(engine)
    event.listen(engine, "commit", fail)
    for use in (Session, Engine.connect):
        with use(engine) as db:
            enqueue(db, OUTBOX, "something_happened", "driver-1", {})
            with pytest.raises(ZeroDivisionError):
                db.commit()
    event.remove(engine, "commit", fail)
    assert lost_count() == before
    assert caplog.records == []


def fail(connection: Connection) -> None:
    # SQLAlchemy does not end the transaction where a listener fails; the pool would hand it on.
    connection.invalidate()
    raise ZeroDivisionError


def test_second_outbox_on_a_second_engine_is_written_there(engine: Engine, sqlite_url: str) -> None:
    other = create_engine(sqlite_url + "2")
    METADATA.create_all(other)
    with Session(binds={ORDERS: engine, OUTBOX.events: other}) as session:
        order(session, "a")
        event.listen(session, "before_commit", add)
        session.commit()
    assert (count_orders(engine), len(stored_ids(engine))) == (1, 0)
    assert len(stored_ids(other)) == 1
    other.dispose()


@pytest.mark.parametrize("is_discarded", [False, True])
def test_event_enqueued_after_a_flush_failed_in_a_savepoint_goes_where_an_object_added_there_goes(
    engine: Engine, is_discarded: bool
) -> None:
    """SQLAlchemy flushes that with the transaction around the savepoint, unless the savepoint is rolled back."""

    class Order:
        def __init__(self, item: str) -> None:
            self.item = item

    with mapped(Order), Session(engine) as session:
        order(session, "taken")
        savepoint = session.begin_nested()
        session.add(Order("taken"))
        with pytest.raises(IntegrityError):
            session.flush()
        session.add(Order("later"))
        later = add(session)
        if is_discarded:
            with pytest.warns(SAWarning, match="will be discarded"):
                savepoint.rollback()
        else:
            savepoint.close()
        last = add(session)
        session.commit()
    assert count_orders(engine) == (1 if is_discarded else 2)
    assert stored_ids(engine) == ([last] if is_discarded else [later, last])
