"""Indexes are what the statements rely on, their predicates too, however the tables were made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from sqlalchemy_outbox.operating.indexes import DEFINITIONS, wrong_indexes
from tests.outbox.conftest import METADATA, OUTBOX


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(outbox_postgres_url)
    yield engine
    engine.dispose()


def found(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(wrong_indexes(connection, OUTBOX))


def test_indexes_of_the_model_and_of_the_migrations_are_the_ones_that_are_written_down(
    engine: Engine, migrated_postgres_url: str
) -> None:
    migrated = create_engine(migrated_postgres_url)
    assert found(engine) == []
    assert found(migrated) == []
    declared = {index.name for table in METADATA.tables.values() for index in table.indexes}
    assert declared <= {name.format(OUTBOX.name) for name in DEFINITIONS}
    with migrated.connect() as connection:
        tables = [name for name in inspect(connection).get_table_names() if name.startswith(OUTBOX.name)]
        names = text("SELECT indexname FROM pg_indexes WHERE tablename = ANY (:tables)")
        there = set(connection.execute(names, {"tables": tables}).scalars())
    assert there == {name.format(OUTBOX.name) for name in DEFINITIONS}
    migrated.dispose()


def test_index_with_another_predicate_or_none_at_all_is_named(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in (
            "DROP INDEX ix_outbox_events_open",
            "CREATE INDEX ix_outbox_events_open ON outbox_events (id) WHERE processed_at IS NULL AND failed_at IS NULL",
            "DROP INDEX ix_outbox_events_waiting",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_outbox_events_failed'::regclass",
        ):
            connection.execute(text(statement))
    narrow, missing, invalid = found(engine)
    assert narrow.startswith("ix_outbox_events_open is (id) WHERE ((processed_at IS NULL) AND (failed_at IS NULL))")
    assert missing == "ix_outbox_events_waiting is missing"
    assert invalid == "ix_outbox_events_failed is invalid"


def test_index_that_is_not_unique_or_of_another_table_is_named_and_one_of_other_storage_is_not(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in (
            "ALTER TABLE outbox_events DROP CONSTRAINT uq_outbox_events_event_id CASCADE",
            "CREATE INDEX uq_outbox_events_event_id ON outbox_events (event_id)",
            "DROP INDEX ix_outbox_events_failed",
            "CREATE UNIQUE INDEX ix_outbox_events_failed ON outbox_events (subject, id) WHERE failed_at IS NOT NULL",
            "DROP INDEX ix_outbox_events_failed_id",
            "CREATE TABLE copy (LIKE outbox_events)",
            "CREATE INDEX ix_outbox_events_failed_id ON copy (id) WHERE failed_at IS NOT NULL",
            "ALTER INDEX ix_outbox_events_open SET (fillfactor = 70)",
            "SET LOCAL quote_all_identifiers = on",
        ):
            connection.execute(text(statement))
        wrong = list(wrong_indexes(connection, OUTBOX))
    assert wrong == [
        "uq_outbox_events_event_id is not unique",
        "ix_outbox_events_failed is unique",
        "ix_outbox_events_failed_id is of another table",
    ]


def test_half_of_each_page_is_left_to_updates_however_the_table_was_made(
    engine: Engine, migrated_postgres_url: str
) -> None:
    options = text("SELECT reloptions FROM pg_class WHERE oid = 'outbox_events'::regclass")
    migrated = create_engine(migrated_postgres_url)
    for made in (engine, migrated):
        with made.connect() as connection:
            assert connection.execute(options).scalar_one() == ["fillfactor=50"]
    migrated.dispose()
