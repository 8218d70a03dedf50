"""The migrations make exactly the tables that the application declares, and take them away again."""

from __future__ import annotations

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from app.database import create_database_engine
from app.models import Base
from tests.conftest import BACKEND, migrate


def test_the_migrated_database_is_what_the_models_declare(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_migration_can_be_taken_back(empty_database_url):
    migrate(empty_database_url)
    command.downgrade(_config(empty_database_url), "base")
    assert _tables(empty_database_url) == {"alembic_version"}
    migrate(empty_database_url)
    assert "outbox_events" in _tables(empty_database_url)


def test_the_first_outbox_has_the_columns_it_began_with(empty_database_url):
    migrate(empty_database_url, "0001")
    engine = create_database_engine(empty_database_url)
    names = [it["name"] for it in inspect(engine).get_columns("outbox_events")]
    engine.dispose()
    assert names == ["id", "event_type", "payload", "created_at", "processed_at"]


def test_events_survive_the_migrations_there_and_back(empty_database_url):
    migrate(empty_database_url, "0001")
    engine = create_database_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox_events (event_type, payload, created_at, processed_at) VALUES "
            """('driver_signed_up', '{"user_id": "d1"}', '2026-11-24T06:40:02.123Z', NULL), """
            """('nova_earned', '{"user_id": "d1"}', '2026-11-24T06:41:02.123Z', '2026-11-24T06:41:03.000Z')"""
        )
    migrate(empty_database_url)
    command.downgrade(_config(empty_database_url), "0001")
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT event_type, payload, processed_at IS NULL FROM outbox_events ORDER BY id"
        ).all()
    engine.dispose()
    assert [(kind, payload, bool(is_open)) for kind, payload, is_open in rows] == [
        ("driver_signed_up", '{"user_id": "d1"}', True),
        ("nova_earned", '{"user_id": "d1"}', False),
    ]


def _config(url: str) -> Config:
    config = Config(BACKEND / "alembic.ini")
    config.attributes["database_url"] = url
    return config


def _tables(url: str) -> set[str]:
    engine = create_database_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names
