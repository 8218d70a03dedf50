"""Migrates the database of DATABASE_URL; a caller in Python may hand in a `connection` or a `database_url`."""

from __future__ import annotations

from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from app.database import create_database_engine
from app.models import Base
from app.settings import Settings, normalise_database_url
from sqlalchemy_outbox import migrations

config = context.config


def database_url() -> str:
    url = config.attributes.get("database_url")
    return normalise_database_url(url) if url else Settings().database_url


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite's DDL takes part in transactions too, once they begin as SQLAlchemy says.
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
        render_item=migrations.render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


def print_sql() -> None:
    context.configure(url=database_url(), target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def migrate_by_url() -> None:
    engine = create_database_engine(database_url())
    try:
        # One transaction for all of them: a migration that fails leaves the database as it was.
        with engine.begin() as connection:
            migrate(connection)
    finally:
        engine.dispose()


if config.cmd_opts is not None and config.config_file_name:
    # Run from the command line: say what is done. A caller in Python has its own logging.
    fileConfig(config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    print_sql()
elif (handed_in := config.attributes.get("connection")) is not None:
    migrate(handed_in)
else:
    migrate_by_url()
