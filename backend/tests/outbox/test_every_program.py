"""Guarantee 1 for programs that nobody thought of: whatever is done with a session or a connection, and in whatever
order, the rows of a transaction and their events both exist or both do not, or the loss was counted and logged.

Each row has an event of its own, enqueued right before or after it is written. What an event without a row should do is
told by the row that the transaction begins with.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from sqlalchemy import Delete, Engine, Update, create_engine, delete, event, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.ext.asyncio import create_async_engine as create_async
from sqlalchemy.orm import Session, registry, scoped_session, sessionmaker

from sqlalchemy_outbox.database.sqlite import configure_engine
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from tests.conftest import create_template, wait_for_replica
from tests.outbox.conftest import HOOKS, ORDERS, OUTBOX, async_url, create_tables
from tests.state_machines import run_state_machine

JOINED = ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
FORMS = ["session", "maker", "scoped", "routed", "autocommit", "connection", *JOINED]
ENDS = st.sampled_from(["commit", "rollback", "close"])


class Order:
    def __init__(self, item: str) -> None:
        self.item = item


class Refused(Exception):
    """Of a listener."""


class Losses(logging.Handler):
    """Which events were said to be lost."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.event_ids: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.event_ids.add(record.__dict__["event_id"])


class Machine(RuleBasedStateMachine):
    """One transaction, or what its program makes of it; begun by the first rule and looked at when it is over."""

    writer: Any
    reader: Any
    look: Engine
    can_prepare = False
    run: Callable[[Any], Any]

    def __init__(self) -> None:
        super().__init__()
        self.losses = Losses()
        logging.getLogger("sqlalchemy_outbox.enqueue").addHandler(self.losses)
        self.db: Any = None
        self.outer: Any = None
        self.savepoints: list[Any] = []
        self.open_contexts: list[Any] = []
        self.count = 0
        self.tracked: dict[str, str] = {}
        self.refused: set[str] = set()
        # Events without a row of their own, with the row that their transaction began with, if that is known.
        self.alone: dict[str, str] = {}
        # Those whose fate is that of the next end(), and those whose fate that has been.
        self.undecided: set[str] = set()
        self.decided: dict[str, bool] = {}
        self.marker = ""
        # Events whose row may be missing though their transaction committed.
        self.rowless: set[str] = set()
        self.has_failed = self.is_listening = False
        if self.can_prepare:
            self.have_session_prepare()
        with self.look.begin() as connection:
            connection.execute(delete(ORDERS))
            connection.execute(insert(ORDERS).values(item="taken"))
            connection.execute(delete(OUTBOX.events))

    def teardown(self) -> None:
        self.finish()
        logging.getLogger("sqlalchemy_outbox.enqueue").removeHandler(self.losses)

    def have_session_prepare(self) -> None:
        """The first program's session executes what it keeps."""
        with self.writer.connect() as connection:
            for _ in range(2):
                self.track(connection, "before")
                connection.commit()
        self.tracked.clear()

    # The steps that rules are made of.

    def do(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call, and await where that is due. What SQLAlchemy does not allow at this point does nothing."""
        self.has_failed = True
        with suppress(SQLAlchemyError, TypeError, Refused, AssertionError):
            result = call(*args, **kwargs)
            result = self.run(result) if inspect.isawaitable(result) else result
            self.has_failed = False
            return result

    def tag(self) -> str:
        self.count += 1
        return f"tag-{self.count}"

    def track(self, db: Any, tag: str) -> None:
        """As `track_event` does it: what is refused is lost at once."""
        try:
            self.tracked[tag] = str(enqueue(db, OUTBOX, "something_happened", tag, {}))
        except (TypeError, SQLAlchemyError):
            self.refused.add(tag)

    @property
    def session(self) -> Session | None:
        """The sync session that listeners are told of."""
        match self.db:
            case Session():
                return self.db
            case scoped_session():
                return self.db()  # type: ignore[no-any-return]
            case AsyncSession():
                return self.db.sync_session
            case async_scoped_session():
                return self.db().sync_session  # type: ignore[no-any-return]
        return None

    # The rules.

    @precondition(lambda self: self.db is None)
    @rule(form=st.sampled_from(FORMS), is_two_phase=st.booleans(), is_nested=st.booleans(), is_marked=st.booleans())
    def begin(self, form: str, is_two_phase: bool, is_nested: bool, is_marked: bool) -> None:
        is_async = isinstance(self, Async)
        session_class: Any = AsyncSession if is_async else Session
        two_phase = {"twophase": True} if is_two_phase and self.can_prepare else {}
        match form:
            case "connection":
                self.db = self.do(lambda: self.writer.connect())
                if two_phase and not is_async:
                    self.savepoints.append(self.do(self.db.begin_twophase))
                else:
                    self.do(self.db.begin)
            case "session":
                self.db = session_class(self.writer, **two_phase)
            case "autocommit":
                self.db = session_class(self.writer.execution_options(isolation_level="AUTOCOMMIT"))
            case "maker":
                maker = (async_sessionmaker if is_async else sessionmaker)(self.writer, **two_phase)
                self.db = maker()
                if is_nested:
                    self.enter(self.db.begin())
            case "scoped":
                if is_async:
                    self.db = async_scoped_session(async_sessionmaker(self.writer), scopefunc=lambda: 1)
                else:
                    self.db = scoped_session(sessionmaker(self.writer))
            case "routed":
                self.db = session_class(**({"sync_session_class": self.routed()} if is_async else {}))
                if not is_async:
                    self.db = self.routed()()
            case mode:
                self.outer = self.do(lambda: self.writer.connect())
                self.do(self.outer.begin)
                if is_nested:
                    self.do(self.outer.begin_nested)
                self.db = session_class(self.outer, join_transaction_mode=mode)
        self.marker = ""
        if is_marked:
            self.marker = self.tag()
            self.write(self.marker, "statement")
            if self.has_failed:
                self.marker = ""

    def routed(self) -> type[Session]:
        writer, reader = (getattr(it, "sync_engine", it) for it in (self.writer, self.reader))

        class Routed(Session):
            def get_bind(self, mapper: Any = None, clause: Any = None) -> Any:  # type: ignore[override]
                is_write = self._flushing or isinstance(clause, Update | Delete) or getattr(clause, "is_insert", False)
                return writer if is_write else reader

        return Routed

    def write(self, tag: str, how: str) -> None:
        self.insert(tag, how)
        if self.has_failed or how == "object":
            # Perhaps never flushed.
            self.rowless.add(tag)

    def insert(self, tag: str, how: str) -> None:
        if isinstance(self.session, Session) and how in ("object", "flushed"):
            self.do(self.db.add, Order(tag))
            if how == "flushed":
                self.do(self.db.flush)
        elif isinstance(self.session, Session) and how == "bulk":
            self.do(self.db.execute, insert(ORDERS), [{"item": tag}])
        else:
            self.do(self.db.execute, insert(ORDERS).values(item=tag))

    @precondition(lambda self: self.db is not None)
    @rule(how=st.sampled_from(["statement", "bulk", "object", "flushed"]), is_first=st.booleans())
    def buy(self, how: str, is_first: bool) -> None:
        tag = self.tag()
        if is_first:
            self.track(self.db, tag)
        self.write(tag, how)
        if not is_first:
            self.track(self.db, tag)

    @precondition(lambda self: self.db is not None)
    @rule()
    def only_track(self) -> None:
        tag = self.tag()
        self.alone[tag] = self.marker
        self.undecided.add(tag)
        self.track(self.db, tag)

    def forget_fates(self) -> None:
        """What is not known of an event's fate any more: it may have been in what was undone."""
        self.alone = {tag: "" if tag in self.undecided else marker for tag, marker in self.alone.items()}
        self.undecided.clear()

    @precondition(lambda self: self.db is not None)
    @rule()
    def read(self) -> None:
        self.do(self.db.execute, select(ORDERS.c.id))

    @precondition(lambda self: self.session is not None)
    @rule()
    def flush(self) -> None:
        self.do(self.db.flush)

    @precondition(lambda self: self.session is not None)
    @rule()
    def fail_to_flush(self) -> None:
        """What a program may catch, to go on in a transaction that is rolled back."""
        self.do(self.db.add, Order("taken"))
        self.do(self.db.flush)
        self.forget_fates()

    @precondition(lambda self: self.db is not None)
    @rule(is_used=st.booleans())
    def set_savepoint(self, is_used: bool) -> None:
        if (savepoint := self.do(self.db.begin_nested)) is not None:
            self.savepoints.append(savepoint)
            if is_used:
                self.buy("statement", is_first=False)

    @precondition(lambda self: self.savepoints)
    @rule(end=ENDS, is_innermost=st.booleans())
    def end_savepoint(self, end: str, is_innermost: bool) -> None:
        savepoint = self.savepoints.pop() if is_innermost else self.savepoints[0]
        if end == "close" and self.session is not None:
            # It leaves what is not flushed in the session, to be flushed by whoever comes next.
            self.do(self.db.flush)
        self.do(getattr(savepoint, end, savepoint.rollback))
        if end != "commit" or self.has_failed:
            self.forget_fates()
        if not (self.session or self.db).in_transaction():
            # It was the transaction's own, of two phases.
            self.forget_fates()
            self.marker = ""

    @precondition(lambda self: self.db is not None)
    @rule()
    def enter_savepoint(self) -> None:
        with suppress(SQLAlchemyError, AssertionError):
            self.enter(self.db.begin_nested())

    def enter(self, context: Any) -> None:
        enter = getattr(context, "__aenter__", None) or context.__enter__
        if self.do(enter) is not None:
            self.open_contexts.append(context)

    @precondition(lambda self: self.open_contexts)
    @rule(is_failing=st.booleans())
    def leave_context(self, is_failing: bool) -> None:
        context = self.open_contexts.pop()
        leave = getattr(context, "__aexit__", None) or context.__exit__
        error = (Refused, Refused(), None) if is_failing else (None, None, None)
        self.do(leave, *error)
        if is_failing or self.has_failed or not (self.session or self.db).in_transaction():
            self.forget_fates()
        if not (self.session or self.db).in_transaction():
            # It was the transaction's own.
            self.marker = ""

    @precondition(lambda self: self.session is not None)
    @rule(hook=st.sampled_from(HOOKS), is_row=st.booleans(), times=st.integers(1, 3))
    def listen(self, hook: str, is_row: bool, times: int) -> None:
        """Track at the hook, a few times: with a row where one can be written there, and alone before the commit."""
        session, left = self.session, [times]
        self.is_listening = True

        def track(session: Session, *args: Any) -> None:
            if left[0] <= 0 or not self.is_listening:
                return
            if hook == "after_begin" and args[1].engine.url == self.reader.url:
                # A row would stay with the reader.
                return
            left[0] -= 1
            tag = self.tag()
            if is_row or hook != "before_commit":
                connection = args[1] if hook == "after_begin" else session
                try:
                    connection.execute(insert(ORDERS).values(item=tag))
                except SQLAlchemyError:
                    self.alone[tag] = ""
            else:
                self.alone[tag] = self.marker
                self.undecided.add(tag)
            self.track(session, tag)

        event.listen(session, hook, track)

    @precondition(lambda self: self.session is not None)
    @rule(end=st.sampled_from(["commit", "rollback"]))
    def end_below(self, end: str) -> None:
        """What the session does not learn of."""
        self.do(self.db.flush)
        if not self.has_failed and (connection := self.do(self.db.connection)) is not None:
            self.do(getattr(connection, end))
            self.marker = ""
            # They may have had their connection before this end, or get it only now.
            self.forget_fates()

    @precondition(lambda self: self.session is not None and self.can_prepare)
    @rule()
    def prepare(self) -> None:
        prepare = getattr(self.db, "prepare", None) or getattr(self.session, "prepare")  # noqa: B009
        if not isinstance(self, Async):
            self.do(prepare)

    @precondition(lambda self: self.db is not None)
    @rule(end=ENDS)
    def end(self, end: str) -> None:
        self.do(getattr(self.db, end))
        self.savepoints.clear()
        if self.has_failed or self.outer is not None:
            self.forget_fates()
        self.decided |= dict.fromkeys(self.undecided, end == "commit")
        self.undecided.clear()
        self.check_if_over()

    @precondition(lambda self: self.db is not None)
    @rule(end=ENDS)
    def finish(self, end: str = "commit") -> None:
        self.is_listening = False
        while self.open_contexts:
            self.leave_context(False)
        if self.db is not None:
            self.do(getattr(self.db, "remove", self.db.close))
        self.forget_fates()
        if self.outer is not None:
            self.do(getattr(self.outer, end))
            self.do(self.outer.close)
        self.db = self.outer = None
        self.savepoints.clear()
        # What a program has left in the middle of a transaction is not the next one's.
        gc.collect(0)
        self.do(self.writer.dispose)
        self.check()

    def check_if_over(self) -> None:
        """A marker speaks of one transaction only."""
        if self.outer is None:
            self.check()
        self.marker = ""

    def check(self) -> None:
        with self.look.connect() as connection:
            rows = set(connection.execute(select(ORDERS.c.item)).scalars())
            events = set(connection.execute(select(OUTBOX.events.c.subject)).scalars())
        # Nothing fails here, so what is lost is what was refused.
        assert self.losses.event_ids == set()
        lost = self.refused
        told = {tag for tag in self.tracked if tag not in self.alone}
        assert {tag for tag in rows if tag in told} - events <= lost, "a row goes without its event"
        assert events - set(self.alone) - self.rowless <= rows, "an event goes without its row"
        for tag, marker in self.alone.items():
            if marker:
                assert (marker in rows) == (tag in events) or tag in lost, f"{tag} does not do as {marker} does"
        for tag, is_committed in self.decided.items():
            assert (tag in events) == is_committed or tag in lost, f"{tag} was to be there: {is_committed}"


class Async(Machine):
    """The same, with each call awaited."""

    def have_session_prepare(self) -> None:
        async def write() -> None:
            async with self.writer.connect() as connection:
                for _ in range(2):
                    self.track(connection, "before")
                    await connection.commit()

        self.run(write())
        self.tracked.clear()


def run_programs(machine: type[Machine]) -> None:
    run_state_machine(machine, examples=30, steps=20, variable="PROGRAM_EXAMPLES")


@contextmanager
def mapped_orders() -> Iterator[None]:
    mappings = registry()
    mappings.map_imperatively(Order, ORDERS)
    try:
        yield
    finally:
        mappings.dispose()


def check_programs(writer: str, reader: str, *, is_async: bool, can_prepare: bool) -> None:
    look = create_engine(writer)
    with asyncio.Runner() as runner, mapped_orders():

        async def awaited(awaitable: Any) -> Any:
            return await awaitable

        def engine_for(url: str) -> Any:
            # So that a session soon executes what it keeps, and a rollback always drops it.
            soon = {"prepare_threshold": 0} if url.startswith("postgresql") else {}
            if not is_async:
                return create_engine(url, connect_args=soon)
            return create_async(async_url(url), connect_args=soon)

        engines = [engine_for(writer), engine_for(reader)]
        for engine in engines:
            configure_engine(engine)

        class Here(Async if is_async else Machine):  # type: ignore[misc]
            pass

        Here.writer, Here.reader, Here.look, Here.can_prepare = *engines, look, can_prepare
        Here.run = staticmethod(lambda awaitable: runner.run(awaited(awaitable)))
        try:
            run_programs(Here)
        finally:
            for engine in engines:
                if is_async:
                    runner.run(engine.dispose())
                else:
                    engine.dispose()
    look.dispose()
    # Connections that programs left open are warned of while warnings are ignored.
    gc.collect()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_rows_and_events_share_their_fate_in_every_program_on_sqlite(
    outbox_sqlite_url: str, sqlite_url: str, is_async: bool
) -> None:
    create_tables(f"{sqlite_url}2")
    check_programs(outbox_sqlite_url, f"{sqlite_url}2", is_async=is_async, can_prepare=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_rows_and_events_share_their_fate_in_every_program_on_postgresql_with_a_standby(
    postgres_with_standby: tuple[str, str], is_async: bool
) -> None:
    primary, standby = postgres_with_standby
    name = create_template(primary, create_tables)
    wait_for_replica(primary, standby)
    check_programs(f"{primary}/{name}", f"{standby}/{name}", is_async=is_async, can_prepare=True)
