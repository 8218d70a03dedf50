"""Guarantees 1 and 2 where a session keeps the statements of a commit prepared, whatever becomes of what it keeps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, MetaData, TextClause, create_engine, event, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from sqlalchemy_outbox.database.pooler import Pooler, configure_engine
from sqlalchemy_outbox.database.prepared_statements import EXECUTIONS_MAX, SCRIPTS_MAX
from sqlalchemy_outbox.enqueueing.enqueue import enqueue
from sqlalchemy_outbox.model import Outbox, define_outbox
from tests.outbox.conftest import METADATA, ORDERS, OUTBOX, async_url, count_orders, stored_ids
from tests.outbox.test_enqueue import lost_count
from tests.outbox.test_session_forms import require_two_phases
from tests.protocol_trace import round_trips, traced

# Writes as they are, before one prepares.
THRESHOLD = 1
# Commits by which a session comes to execute what it keeps.
WARM = THRESHOLD + 2
# An INSERT, and what sets the lock timeout and restores it.
OF_ONE_SHAPE = 3


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(outbox_postgres_url, connect_args={"prepare_threshold": THRESHOLD})
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def commit(connection: Connection, events: int = 1, outbox: Outbox = OUTBOX) -> list[UUID]:
    """A row, and its events."""
    connection.execute(unlike("INSERT INTO orders DEFAULT VALUES"))
    ids = [enqueue(connection, outbox, "something_happened", f"driver-{n}", {"n": n}) for n in range(events)]
    connection.commit()
    return ids


def unlike(sql: str) -> TextClause:
    """A statement that psycopg has not seen before, and so does not prepare."""
    return text(f"{sql} -- {uuid4()}")


def commits(connection: Connection) -> list[UUID]:
    return [id_ for _ in range(WARM) for id_ in commit(connection)]


def warm(connection: Connection) -> list[UUID]:
    ids = commits(connection)
    assert uses(connection) == 1
    return ids


def kept(connection: Connection) -> dict[str, str]:
    query = "SELECT name, statement FROM pg_prepared_statements WHERE from_sql"
    found = {row.name: row.statement for row in connection.execute(unlike(query))}
    connection.commit()
    return found


def uses(connection: Connection) -> int:
    """How often the session has executed the INSERTs that it keeps."""
    query = "SELECT coalesce(sum(generic_plans + custom_plans), 0) FROM pg_prepared_statements WHERE from_sql"
    found = connection.execute(unlike(f"{query} AND statement ~ 'INSERT INTO'")).scalar_one()
    connection.commit()
    return int(found)


def run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(unlike(statement.replace(":", "\\:")))
    connection.commit()


def run_alone(connection: Connection, statement: str) -> None:
    """In no transaction."""
    driver: Any = connection.connection.dbapi_connection
    driver.autocommit = True
    driver.cursor().execute(statement)
    driver.autocommit = False


def test_session_parses_and_plans_the_statements_of_a_commit_once(engine: Engine, connection: Connection) -> None:
    expected = warm(connection)
    statements = kept(connection)
    for _ in range(7):
        expected += commit(connection)
    assert (kept(connection), uses(connection)) == (statements, 8)
    assert len(statements) == OF_ONE_SHAPE
    assert [statement for statement in statements.values() if "driver-" in statement] == []
    assert stored_ids(engine) == expected


@pytest.mark.parametrize("threshold", [0, 5])
def test_statements_are_prepared_as_late_as_psycopg_is_told(
    engine: Engine, outbox_postgres_url: str, threshold: int
) -> None:
    told = create_engine(outbox_postgres_url, connect_args={"prepare_threshold": threshold})
    # The first asks the session whose it is.
    writes = max(1, threshold)
    with told.connect() as connection:
        ids = []
        for n in range(1, writes + 3):
            ids.append(enqueue(connection, OUTBOX, "something_happened", "driver-1", {}))
            connection.commit()
            assert uses(connection) == max(0, n - writes - 1)
    told.dispose()
    assert stored_ids(engine) == ids


async def test_session_of_an_async_connection_does_so_and_forgets_like_others(
    outbox_postgres_url: str, engine: Engine
) -> None:
    async def commit_one() -> UUID:
        event_id = enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
        await connection.commit()
        return event_id

    async_engine = create_async_engine(async_url(outbox_postgres_url), connect_args={"prepare_threshold": THRESHOLD})
    async with async_engine.connect() as connection:
        expected = [await commit_one() for _ in range(WARM + 1)]
        assert await connection.run_sync(uses) == 2
        await connection.run_sync(run_alone, "DISCARD ALL")
        expected += [await commit_one() for _ in range(WARM)]
        assert await connection.run_sync(kept) == {}
    await async_engine.dispose()
    assert stored_ids(engine) == expected


@pytest.mark.parametrize("events", [1, 10])
def test_commit_costs_one_round_trip_more_in_whatever_way_it_writes(
    engine: Engine, tmp_path: Path, events: int
) -> None:
    def commit_round_trips(events: int) -> int:
        with Session(engine) as session:
            session.execute(insert(ORDERS))
            for n in range(events):
                enqueue(session, OUTBOX, "something_happened", f"driver-{n}", {})
            with traced(session, tmp_path / "trace") as trace:
                session.commit()
        return round_trips(trace)

    assert commit_round_trips(0) == 1
    assert [commit_round_trips(events) for _ in range(WARM + 1)] == [2] * (WARM + 1)
    assert len(stored_ids(engine)) == events * (WARM + 1)


@pytest.mark.parametrize("forget", ["ROLLBACK", "ROLLBACK TO SAVEPOINT", "DROP", "DISCARD ALL"])
def test_session_is_told_anew_after_psycopg_has_made_it_forget(
    engine: Engine, connection: Connection, forget: str
) -> None:
    """Each request that ends without a commit has psycopg drop all that the session has prepared."""
    expected = []
    for _ in range(3):
        # It drops nothing where it has prepared nothing.
        expected += warm(connection)
        prepare_by_psycopg(connection)
        expected += warm(connection)
        if forget == "ROLLBACK":
            connection.execute(unlike("SELECT 1"))
            connection.rollback()
        elif forget == "ROLLBACK TO SAVEPOINT":
            with connection.begin_nested() as savepoint:
                savepoint.rollback()
        elif forget == "DROP":
            run(connection, "CREATE TABLE dropped ()", "DROP TABLE dropped")
        else:
            run_alone(connection, forget)
        assert kept(connection) == {}
    assert stored_ids(engine) == expected


def prepare_by_psycopg(connection: Connection) -> None:
    for _ in range(THRESHOLD + 1):
        connection.execute(text("SELECT 'psycopg prepares this'"))
    connection.commit()


def test_rollback_before_which_psycopg_has_prepared_nothing_drops_nothing(
    engine: Engine, connection: Connection
) -> None:
    expected = warm(connection)
    for _ in range(3):
        connection.execute(unlike("SELECT 1"))
        connection.rollback()
        expected += commit(connection)
    assert uses(connection) == 1 + 3
    assert stored_ids(engine) == expected


@pytest.mark.parametrize("forget", ["DISCARD ALL", "DEALLOCATE ALL", "DISCARD PLANS"])
def test_session_that_forgets_its_statements_loses_and_doubles_nothing(
    engine: Engine, connection: Connection, forget: str
) -> None:
    expected = warm(connection)
    for _ in range(2):
        run_alone(connection, forget)
        for events in (1, 2, 1):
            expected += commit(connection, events)
    assert stored_ids(engine) == expected
    assert count_orders(engine) == WARM + 6
    # What has forgotten once may do so after each transaction.
    assert (kept(connection) == {}) is (forget != "DISCARD PLANS")


def test_session_that_knows_a_statement_already_is_told_anew(engine: Engine) -> None:
    """Of two pools that share a driver's connection, or of an undeclared pooler."""
    with engine.connect() as connection:
        expected = warm(connection)
        statements = kept(connection)
    with engine.connect() as warmed, engine.connect() as connection:
        assert uses(warmed) == 1
        for statement in statements.values():
            run_alone(connection, statement)
        expected += warm(connection)
        assert kept(connection) == statements
    assert stored_ids(engine) == expected


def test_nothing_is_prepared_where_the_database_has_no_plpgsql(engine: Engine, connection: Connection) -> None:
    run(connection, "DROP EXTENSION plpgsql")
    expected = commits(connection) + commits(connection)
    assert kept(connection) == {}
    assert stored_ids(engine) == expected


def test_transaction_goes_on_as_it_was_after_a_statement_was_unknown(engine: Engine, connection: Connection) -> None:
    """Its savepoints, its settings and what it locks are as they were."""
    warm(connection)
    run_alone(connection, "DEALLOCATE ALL")
    connection.execute(text("SET LOCAL lock_timeout = '7s'"))
    connection.execute(text("DECLARE rows CURSOR FOR SELECT generate_series(1, 3)"))
    with connection.begin_nested():
        enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
        connection.execute(insert(ORDERS))
    with connection.begin_nested() as savepoint:
        enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
        connection.execute(insert(ORDERS))
        savepoint.rollback()
    seen: list[object] = []

    def look(connection: Connection) -> None:
        for query in ("SHOW lock_timeout", "FETCH NEXT FROM rows"):
            seen.append(connection.exec_driver_sql(query).scalar_one())

    # The last thing before COMMIT, and so after the write.
    event.listen(engine, "commit", look, once=True)
    connection.commit()
    assert seen == ["7s", 1]
    assert (count_orders(engine), len(stored_ids(engine))) == (WARM + 1, WARM + 1)


def test_statement_prepared_by_a_transaction_that_ended_badly_is_used_all_the_same(
    engine: Engine, connection: Connection
) -> None:
    expected = commit(connection)
    run(connection, "ALTER TABLE orders DROP CONSTRAINT orders_item_key")
    run(connection, "ALTER TABLE orders ADD UNIQUE (item) DEFERRABLE INITIALLY DEFERRED")
    connection.execute(unlike("INSERT INTO orders (item) VALUES ('a'), ('a')"))
    enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
    with pytest.raises(IntegrityError):
        connection.commit()
    connection.rollback()
    assert len(kept(connection)) == OF_ONE_SHAPE
    for _ in range(2):
        expected += commit(connection)
    assert uses(connection) == 2
    assert stored_ids(engine) == expected


def test_event_of_a_transaction_in_two_phases_is_written_by_what_is_prepared(
    engine: Engine, connection: Connection
) -> None:
    require_two_phases(engine)
    expected = warm(connection)
    for end in ("commit", "rollback"):
        transaction = connection.begin_twophase()
        event_id = enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
        transaction.prepare()
        getattr(transaction, end)()
        expected += [event_id] if end == "commit" else []
    assert uses(connection) == 1 + 2
    assert stored_ids(engine) == expected


def ids_in(connection: Connection, schema: str) -> list[UUID]:
    found = list(connection.execute(text(f"SELECT event_id FROM {schema}.outbox_events ORDER BY id")).scalars())
    connection.commit()
    return found


def test_event_goes_where_the_search_path_leads_at_its_commit(engine: Engine, connection: Connection) -> None:
    run(connection, "CREATE SCHEMA other")
    METADATA.create_all(engine.execution_options(schema_translate_map={None: "other"}))
    expected = {"public": warm(connection), "other": []}
    for schema in ("other", "public", "other"):
        run(connection, f"SET search_path = {schema}")
        expected[schema] += commit(connection)
    connection.execute(text("SET LOCAL search_path = public"))
    expected["public"] += commit(connection)
    assert uses(connection) == 1 + 4
    assert {schema: ids_in(connection, schema) for schema in expected} == expected


def test_event_goes_into_the_schema_that_its_connection_names(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text('CREATE SCHEMA "100% other"'))
    named = engine.execution_options(schema_translate_map={None: "100% other"})
    METADATA.create_all(named)
    with engine.connect() as connection:
        expected = warm(connection)
    with named.connect() as connection:
        ids = commits(connection)
        assert uses(connection) == 1 + 1
        assert ids_in(connection, '"100% other"') == ids
        assert ids_in(connection, "public") == expected


def test_event_is_written_with_the_rights_of_the_role_at_its_commit(engine: Engine, connection: Connection) -> None:
    role = f"role_{engine.url.database}"
    run(
        connection,
        f"CREATE ROLE {role}",
        f"GRANT INSERT, SELECT ON orders TO {role}",
        f"GRANT USAGE ON SEQUENCE orders_id_seq TO {role}",
    )
    expected, lost = warm(connection), lost_count()
    run(connection, f"SET ROLE {role}")
    commit(connection)
    assert lost_count() == lost + 1
    run(connection, "RESET ROLE", f"GRANT INSERT ON outbox_events TO {role}", f"SET ROLE {role}")
    # Without SELECT, ids are not checked.
    expected += commits(connection)
    run(connection, "RESET ROLE", f"GRANT SELECT ON outbox_events TO {role}")
    run(connection, "ALTER TABLE outbox_events ENABLE ROW LEVEL SECURITY")
    run(
        connection,
        f"CREATE POLICY seen ON outbox_events FOR SELECT TO {role} USING (true)",
        f"CREATE POLICY written ON outbox_events FOR INSERT TO {role} WITH CHECK (subject <> 'driver-1')",
        f"SET ROLE {role}",
    )
    expected += commit(connection)
    commit(connection, events=2)
    assert lost_count() == lost + 1 + 2
    run(connection, "RESET ROLE")
    expected += commit(connection, events=2)
    run(connection, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert stored_ids(engine) == expected


DDL = {
    "a column added": ["ALTER TABLE outbox_events ADD COLUMN note text NOT NULL DEFAULT 'none'"],
    "a column in another place": [
        "ALTER TABLE outbox_events ADD COLUMN subject_2 text",
        "UPDATE outbox_events SET subject_2 = subject",
        "ALTER TABLE outbox_events DROP COLUMN subject CASCADE",
        "ALTER TABLE outbox_events RENAME COLUMN subject_2 TO subject",
    ],
    "a column of a type that takes no text": [
        "ALTER TABLE outbox_events ALTER COLUMN payload TYPE jsonb USING payload::jsonb"
    ],
    "a column of a type that takes no uuid": ["ALTER TABLE outbox_events ALTER COLUMN event_id TYPE varchar(36)"],
    "another table of the name": [
        "CREATE TABLE made_anew (LIKE outbox_events INCLUDING ALL)",
        "INSERT INTO made_anew OVERRIDING SYSTEM VALUE SELECT * FROM outbox_events",
        "SELECT setval('made_anew_id_seq', (SELECT max(id) FROM made_anew))",
        "DROP TABLE outbox_events",
        "ALTER TABLE made_anew RENAME TO outbox_events",
    ],
}


@pytest.mark.parametrize("ddl", DDL.values(), ids=DDL)
def test_event_is_written_into_the_table_as_it_is_at_the_commit(
    engine: Engine, connection: Connection, ddl: list[str]
) -> None:
    expected = warm(connection)
    # By another session, and by the very transaction that enqueues.
    with engine.connect() as migration:
        run(migration, *ddl)
    expected += commit(connection)
    connection.execute(text("ALTER TABLE outbox_events ADD COLUMN another text"))
    expected += commit(connection, events=2)
    expected += commit(connection)
    found = connection.execute(text("SELECT event_id::text FROM outbox_events ORDER BY id")).scalars().all()
    assert found == [str(id_) for id_ in expected]


def test_event_is_lost_and_the_row_stays_while_the_table_is_missing(engine: Engine, connection: Connection) -> None:
    expected, lost = warm(connection), lost_count()
    run(connection, "ALTER TABLE outbox_events RENAME TO away")
    commit(connection)
    assert lost_count() == lost + 1
    run(connection, "ALTER TABLE away RENAME TO outbox_events")
    expected += commit(connection)
    assert stored_ids(engine) == expected
    assert uses(connection) == 2
    assert count_orders(engine) == WARM + 2


def test_plans_for_given_values_write_the_same(engine: Engine, connection: Connection) -> None:
    run(connection, "SET plan_cache_mode = force_custom_plan")
    expected = warm(connection) + commits(connection)
    assert stored_ids(engine) == expected


def test_ids_that_would_come_again_are_seen_by_what_is_prepared(engine: Engine, connection: Connection) -> None:
    expected = []
    for _ in range(2):
        expected += commits(connection)
        run(connection, "ALTER SEQUENCE outbox_events_id_seq RESTART")
        expected += commit(connection) + commit(connection, events=2)
    assert stored_ids(engine) == expected


def test_role_that_chooses_ids_or_does_not_check_them_loses_nothing(engine: Engine) -> None:
    role = f"role_{engine.url.database}"
    with engine.begin() as connection:
        run(
            connection,
            f"CREATE ROLE {role} LOGIN",
            f"GRANT INSERT, SELECT ON orders TO {role}",
            f"GRANT USAGE ON SEQUENCE orders_id_seq TO {role}",
            f"GRANT INSERT, SELECT ON outbox_events TO {role}",
        )
    with engine.connect() as owner:
        expected = warm(owner)
        application = create_engine(engine.url.set(username=role), connect_args={"prepare_threshold": THRESHOLD})
        with application.connect() as connection:
            expected += warm(connection)
            run(owner, "ALTER SEQUENCE outbox_events_id_seq RESTART")
            expected += commits(connection)
            run(owner, "SELECT setval('outbox_events_id_seq', (SELECT max(id) FROM outbox_events))")
            run(owner, f"REVOKE SELECT ON outbox_events FROM {role}")
            expected += commits(connection)
        application.dispose()
        run(owner, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert stored_ids(engine) == expected


def test_plan_made_for_an_empty_table_does_not_outlive_its_emptiness(engine: Engine, connection: Connection) -> None:
    """It reads all of the table, which nothing but a VACUUM or ANALYZE of it would end."""
    run_alone(connection, "VACUUM outbox_events")
    warm(connection)
    before = connection.execute(text("SELECT max(prepare_time) FROM pg_prepared_statements")).scalar_one()
    connection.commit()
    for _ in range(EXECUTIONS_MAX + 1):
        enqueue(connection, OUTBOX, "something_happened", "driver-1", {})
        connection.commit()
    times = text("SELECT min(prepare_time) FROM pg_prepared_statements WHERE from_sql")
    assert connection.execute(times).scalar_one() > before
    connection.commit()
    assert uses(connection) < EXECUTIONS_MAX
    assert len(stored_ids(engine)) == WARM + EXECUTIONS_MAX + 1


def test_session_keeps_so_many_statements_and_writes_all_others_as_they_are(
    engine: Engine, connection: Connection
) -> None:
    outboxes = [OUTBOX, *(define_outbox(MetaData(), f"outbox_{n}") for n in range(4))]
    for outbox in outboxes[1:]:
        outbox.events.create(connection)
    for outbox in outboxes:
        for events in range(1, 11):
            for _ in range(2):
                commit(connection, events, outbox)
    assert len(kept(connection)) == SCRIPTS_MAX + OF_ONE_SHAPE - 1
    for outbox in outboxes:
        assert connection.execute(text(f"SELECT count(*) FROM {outbox.name}")).scalar_one() == 2 * sum(range(1, 11))


@pytest.mark.parametrize("pooler", [Pooler.TRANSACTION, None])
def test_nothing_is_prepared_where_the_application_says_so(
    engine: Engine, outbox_postgres_url: str, pooler: Pooler | None
) -> None:
    """By the setting, or as psycopg is told of a pooler."""
    told = create_engine(outbox_postgres_url, connect_args={"prepare_threshold": THRESHOLD if pooler else None})
    if pooler:
        configure_engine(told, pooler=pooler)
    with told.connect() as connection:
        expected = commits(connection)
        assert kept(connection) == {}
    told.dispose()
    assert stored_ids(engine) == expected


def test_each_connection_is_known_by_itself(engine: Engine) -> None:
    """Invalidated, detached, or closed by the server: another one has nothing prepared."""
    expected = []
    with engine.connect() as connection:
        expected += warm(connection)
        connection.invalidate()
        connection.rollback()
        expected += warm(connection)
        connection.detach()
        expected += commit(connection)
        assert uses(connection) == 2
    with engine.connect() as connection:
        expected += warm(connection)
    with engine.connect() as connection:
        assert uses(connection) == 1
        expected += commit(connection)
    engine.dispose()
    with engine.connect() as connection:
        expected += warm(connection)
    assert stored_ids(engine) == expected


def test_forked_process_writes_on_connections_of_its_own(outbox_postgres_url: str, engine: Engine) -> None:
    program = """
import os, sys
from sqlalchemy import create_engine
from tests.outbox.test_prepared_statements import THRESHOLD, uses, warm

engine = create_engine(sys.argv[1], connect_args={"prepare_threshold": THRESHOLD})
with engine.connect() as connection:
    warm(connection)
if (child := os.fork()) == 0:
    engine.dispose(close=False)
with engine.connect() as connection:
    warm(connection) if child == 0 else None
    assert uses(connection) == 1
if child == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    backend = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, outbox_postgres_url], cwd=backend, check=True, timeout=30)
    assert len(stored_ids(engine)) == 2 * WARM


def test_many_connections_at_once_keep_their_own(engine: Engine) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(engine.connect()) for _ in range(4)]
        expected = [id_ for _ in range(WARM) for connection in connections for id_ in commit(connection)]
        assert [uses(connection) for connection in connections] == [1] * 4
    assert stored_ids(engine) == expected
