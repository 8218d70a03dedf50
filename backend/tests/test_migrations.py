"""Every migration can be taken back, all together make what the models declare, and stored events survive them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, select, text

from app.database import create_database_engine
from app.models import OUTBOX, Base
from sqlalchemy_outbox.operating.search import read_events
from sqlalchemy_outbox.reason import reason_of
from tests.conftest import BACKEND, migrate

# Who an event of an earlier release is about, by how its payload was written.
STORED_PAYLOADS = {
    '{"user_id": "d1", "email": "a@example.com"}': "d1",
    '{"user_id":"d2"}': "d2",
    '{"email": "a@example.com", "user_id" : "d1"}': "d1",
}
# A payload that names nobody: the event is a subject of its own.
STORED_PAYLOADS_OF_NOBODY = ['{"email": "a@example.com"}', "no JSON", '{"user_id": ""}']


PROCESSED_AT = "2026-11-24T06:41:03.000Z"
EVENTS_WITH_ATTEMPTS = [
    (0, None, "pending"),
    (2, None, "pending"),
    (3, None, "failed"),
    (5, None, "failed"),
    (0, PROCESSED_AT, "delivered"),
    (1, PROCESSED_AT, "delivered"),
    (3, PROCESSED_AT, "delivered"),
]


def test_migrated_tables_are_what_the_models_declare(empty_database_url):
    with opened(empty_database_url) as engine:
        Base.metadata.create_all(engine)
        declared = tables(engine)
        Base.metadata.drop_all(engine)
        migrate(empty_database_url)
        assert tables(engine, without="alembic_version") == declared


def test_alembic_finds_nothing_to_migrate(database_url):
    command.check(config(database_url))


def test_each_migration_can_be_taken_back_and_made_again(empty_database_url):
    migrate(empty_database_url)
    revisions = [it.revision for it in ScriptDirectory.from_config(config(empty_database_url)).walk_revisions()]
    with opened(empty_database_url) as engine:
        after = {}
        for revision in revisions:
            after[revision] = tables(engine)
            command.downgrade(config(empty_database_url), "-1")
        assert inspect(engine).get_table_names() == ["alembic_version"]
        for revision in reversed(revisions):
            command.upgrade(config(empty_database_url), "+1")
            assert tables(engine) == after[revision], revision


def test_migration_of_its_own_adds_attempt_count_and_last_error(empty_database_url):
    with opened(empty_database_url) as engine:
        migrate(empty_database_url, "0001")
        before = columns(engine)
        migrate(empty_database_url, "0002")
        assert columns(engine) - before == {"attempt_count", "last_error"}


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_stored_events_keep_their_order_and_get_an_id_and_a_subject(empty_database_url, revision):
    migrate(empty_database_url, revision)
    payloads = [*STORED_PAYLOADS, *STORED_PAYLOADS_OF_NOBODY]
    with opened(empty_database_url) as engine:
        with engine.begin() as connection:
            for payload in payloads:
                store(connection, payload)
        migrate(empty_database_url)
        c = OUTBOX.events.c
        with engine.connect() as connection:
            events = connection.execute(
                select(c.payload, c.event_id, c.subject, c.created_at, c.available_at).order_by(c.id)
            ).all()
    assert [it.payload for it in events] == payloads
    assert all(isinstance(it.event_id, UUID) for it in events)
    assert len({it.event_id for it in events}) == len(events)
    assert all(it.available_at == it.created_at for it in events)
    subjects = [it.subject for it in events]
    named = len(STORED_PAYLOADS)
    assert subjects[:named] == list(STORED_PAYLOADS.values())
    assert subjects[named:] == [str(it.event_id) for it in events[named:]]


def test_events_with_attempts_keep_their_state_there_and_back(empty_database_url):
    migrate(empty_database_url, "0002")
    with opened(empty_database_url) as engine:
        with engine.begin() as connection:
            for attempt_count, processed_at, _ in EVENTS_WITH_ATTEMPTS:
                store(connection, "{}", attempt_count=attempt_count, last_error="e", processed_at=processed_at)
        migrate(empty_database_url)
        with engine.connect() as connection:
            states = [it.state for it in read_events(connection, OUTBOX, event_ids(connection))]
        assert states == [state for _, _, state in EVENTS_WITH_ATTEMPTS]
        command.downgrade(config(empty_database_url), "0002")
        with engine.connect() as connection:
            events = connection.execute(
                text("SELECT attempt_count, processed_at, last_error FROM outbox_events ORDER BY id")
            ).all()
    assert {it.last_error for it in events} == {"e"}
    assert [it.processed_at is not None for it in events] == [it is not None for _, it, _ in EVENTS_WITH_ATTEMPTS]
    failed = [it.attempt_count >= 3 and it.processed_at is None for it in events]
    assert failed == [state == "failed" for _, _, state in EVENTS_WITH_ATTEMPTS]


def test_stored_failures_get_the_reason_that_a_worker_would_give_them(empty_database_url):
    migrate(empty_database_url, "0002")
    errors = ["HubSpot refused it: contact 801 (correlation id 0a1b-2c3d)", "x" * 1000, "no digit – it's €", None]
    with opened(empty_database_url) as engine:
        with engine.begin() as connection:
            for error in errors:
                store(connection, "{}", attempt_count=3, last_error=error)
            store(connection, "{}", attempt_count=2, last_error="not failed")
        migrate(empty_database_url)
        with engine.connect() as connection:
            c = OUTBOX.events.c
            reasons = list(connection.execute(select(c.failure_reason).order_by(c.id)).scalars())
    assert reasons == [*(error and reason_of(error) for error in errors), None]


def test_claims_under_way_keep_their_leases_there_and_back(empty_database_url):
    migrate(empty_database_url, "0005")
    until = "2026-11-24T06:41:02.123Z"
    with opened(empty_database_url) as engine:
        with engine.begin() as connection:
            for number, token in enumerate(("first", "first", "second", None)):
                at = "2026-11-24T06:40:02.123Z"
                event = {"event_id": str(UUID(int=number)), "subject": "d1", "available_at": at}
                store(connection, "{}", **event, claim_token=token, claimed_until=token and until)
        migrate(empty_database_url)
        with engine.connect() as connection:
            leases = connection.execute(select(OUTBOX.leases).order_by(OUTBOX.leases.c.token)).all()
            ids = list(connection.execute(select(OUTBOX.events.c.id).order_by(OUTBOX.events.c.id)).scalars())
        assert [(it.token, sorted(it.event_ids)) for it in leases] == [("first", ids[:2]), ("second", [ids[2]])]
        assert {it.until for it in leases} == {datetime.fromisoformat(until)}
        command.downgrade(config(empty_database_url), "0005")
        with engine.connect() as connection:
            claims = connection.execute(text("SELECT claim_token, claimed_until FROM outbox_events ORDER BY id")).all()
    assert [it.claim_token for it in claims] == ["first", "first", "second", None]
    assert [it.claimed_until is not None for it in claims] == [True, True, True, False]


def test_hold_of_a_person_goes_back_to_one_that_a_probe_lifts(empty_database_url):
    migrate(empty_database_url)
    with opened(empty_database_url) as engine:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO outbox_events_gate (id, state, reason, held_by, next_slot_at) "
                    "VALUES (1, 'held', 'import', 'cli:ada', '2026-11-24T06:40:02.123Z')"
                )
            )
        command.downgrade(config(empty_database_url), "0004")
        with engine.connect() as connection:
            (row,) = connection.execute(text("SELECT state, reason, until FROM outbox_events_gate")).all()
    assert (row.state, row.reason) == ("held", "import")
    assert row.until is not None


def test_migration_of_a_filled_outbox_is_all_or_nothing(empty_database_url, monkeypatch):
    migrate(empty_database_url, "0002")
    with opened(empty_database_url) as engine:
        before = tables(engine)
        with engine.begin() as connection:
            store(connection, "{}")
            # In the way of 0003's last step.
            connection.execute(text("CREATE TABLE outbox_events_gate (id integer)"))
        with pytest.raises(Exception, match="outbox_events_gate"):
            migrate(empty_database_url)
        assert tables(engine, without="outbox_events_gate") == before


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    engine = create_database_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def config(url: str) -> Config:
    config = Config(BACKEND / "alembic.ini")
    config.attributes["database_url"] = url
    return config


def store(connection: Connection, payload: str, **columns: object) -> None:
    """Write an event as an earlier release did."""
    values = {"event_type": "driver_signed_up", "payload": payload, "created_at": "2026-11-24T06:40:02.123Z"} | columns
    names = ", ".join(values)
    connection.execute(text(f"INSERT INTO outbox_events ({names}) VALUES (:{', :'.join(values)})"), values)


def event_ids(connection: Connection) -> list[UUID]:
    return list(connection.execute(select(OUTBOX.events.c.event_id).order_by(OUTBOX.events.c.id)).scalars())


def columns(engine: Engine) -> set[str]:
    return {it["name"] for it in inspect(engine).get_columns("outbox_events")}


def tables(engine: Engine, without: str | None = None) -> dict[str, object]:
    """Every table as the database describes it, in a form that can be compared."""
    inspector = inspect(engine)
    return {
        name: {
            "columns": {
                it["name"]: (str(it["type"]), it["nullable"], it["default"]) for it in inspector.get_columns(name)
            },
            "primary key": inspector.get_pk_constraint(name)["constrained_columns"],
            "unique": sorted(str(it["column_names"]) for it in inspector.get_unique_constraints(name)),
            "checks": {it["name"]: it["sqltext"] for it in inspector.get_check_constraints(name)},
            "indexes": {
                it["name"]: (it["column_names"], it["unique"], condition_of(it)) for it in inspector.get_indexes(name)
            },
            "references": sorted(
                str((it["constrained_columns"], it["referred_table"])) for it in inspector.get_foreign_keys(name)
            ),
        }
        for name in inspector.get_table_names()
        if name != without
    }


def condition_of(index: dict[str, object]) -> str:
    options = index.get("dialect_options", {})
    assert isinstance(options, dict)
    return str(options.get("postgresql_where", options.get("sqlite_where")))
