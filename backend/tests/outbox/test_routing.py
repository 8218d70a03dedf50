"""A session that reads from replicas writes its events where its rows go, and never asks a reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Delete, Engine, Update, create_engine, insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.conftest import create_template, wait_for_replica
from tests.outbox.conftest import ORDERS, OUTBOX, count_orders, create_tables, stored_ids
from tests.outbox.test_enqueue import add, lost_count, mapped


@dataclass
class Databases:
    writer: Engine
    reader: Engine

    def sessions(self) -> list[type[Session]]:
        """The routing of SQLAlchemy's documentation, as it is and as it was until 1.3, and two of its relatives."""
        writer, reader = self.writer, self.reader

        class Documented(Session):
            def get_bind(self, mapper: Any = None, clause: Any = None) -> Engine:  # type: ignore[override]
                return writer if self._flushing or isinstance(clause, Update | Delete) else reader

        class UntilOneThree(Session):
            def get_bind(self, mapper: Any = None, clause: Any = None) -> Engine:  # type: ignore[override]
                return writer if self._flushing else reader

        class ByStatement(Session):
            def get_bind(self, mapper: Any = None, *, clause: Any = None, **kw: Any) -> Engine:
                return writer if self._flushing or (clause is not None and clause.is_dml) else reader

        class ByTable(Session):
            def get_bind(self, mapper: Any = None, *, clause: Any = None, **kw: Any) -> Engine:
                table = getattr(clause, "table", None)
                return writer if self._flushing or table is OUTBOX.events else reader

        return [Documented, UntilOneThree, ByStatement, ByTable]


@pytest.fixture
def replicated(postgres_with_standby: tuple[str, str]) -> Iterator[Databases]:
    primary, standby = postgres_with_standby
    name = create_template(primary, create_tables)
    wait_for_replica(primary, standby)
    databases = Databases(create_engine(f"{primary}/{name}"), create_engine(f"{standby}/{name}"))
    yield databases
    databases.writer.dispose()
    databases.reader.dispose()


def check_that_events_go_where_rows_go(databases: Databases) -> None:
    class Order:
        item: str

    def buy(session: Session) -> None:
        session.execute(select(ORDERS)).all()
        order = Order()
        order.item = uuid4().hex
        session.add(order)

    before = lost_count()
    kept = []
    with mapped(Order):
        for routing in databases.sessions():
            for flush_first in (True, False):
                with routing() as session:
                    buy(session)
                    if flush_first:
                        session.flush()
                    kept.append(add(session))
                    session.commit()
            with routing() as session:
                kept.append(add(session))
                session.commit()
    assert stored_ids(databases.writer) == kept
    assert count_orders(databases.writer) == 2 * len(databases.sessions())
    assert lost_count() == before


def test_events_go_to_the_writer_where_readers_are_a_standby(replicated: Databases) -> None:
    with replicated.reader.connect() as connection:
        assert connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one()
    check_that_events_go_where_rows_go(replicated)


def test_events_go_to_the_writer_where_readers_could_be_written_too(database_url: str, sqlite_url: str) -> None:
    databases = Databases(create_engine(database_url), create_engine(f"{sqlite_url}2"))
    create_tables(f"{sqlite_url}2")
    check_that_events_go_where_rows_go(databases)
    assert stored_ids(databases.reader) == []
    databases.writer.dispose()
    databases.reader.dispose()


def test_commit_needs_no_reader(database_url: str) -> None:
    databases = Databases(create_engine(database_url), create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    for routing in databases.sessions():
        with routing() as session:
            add(session)
            session.commit()
    assert len(stored_ids(databases.writer)) == len(databases.sessions())
    databases.writer.dispose()
    databases.reader.dispose()


def test_session_bound_to_a_standby_loses_the_event_and_says_so(
    replicated: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    before = lost_count()
    with Session(replicated.reader) as session:
        session.execute(select(ORDERS)).all()
        event_id = add(session)
        session.commit()
    assert lost_count() == before + 1
    assert "read-only" in caplog.text
    assert str(event_id) in caplog.text


def test_writer_that_is_down_fails_the_commit(database_url: str) -> None:
    databases = Databases(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"), create_engine(database_url))
    with databases.sessions()[0]() as session:
        session.execute(select(ORDERS)).all()
        add(session)
        with pytest.raises(OperationalError):
            session.commit()
    databases.reader.dispose()


def test_table_binds_are_followed(database_url: str, sqlite_url: str) -> None:
    engine, other = create_engine(database_url), create_engine(f"{sqlite_url}2")
    create_tables(f"{sqlite_url}2")
    with Session(other, binds={OUTBOX.events: engine}) as session:
        session.execute(insert(ORDERS).values(item="a"))
        kept = add(session)
        session.commit()
    assert stored_ids(engine) == [kept]
    assert stored_ids(other) == []
    engine.dispose()
    other.dispose()
