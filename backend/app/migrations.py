"""Which migration the database has, and which it should have."""

from __future__ import annotations

from functools import cache

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.settings import BACKEND


@cache
def head_revision() -> str | None:
    """The newest migration that this application knows."""
    return ScriptDirectory(str(BACKEND / "alembic")).get_current_head()


def current_revision(connection: Connection) -> str | None:
    """The newest migration that the database has; None when it has none."""
    return MigrationContext.configure(connection).get_current_revision()


def migration_missing(connection: Connection) -> str | None:
    """Which migration the database lacks, in words; None when it has the newest."""
    revision, head = current_revision(connection), head_revision()
    return None if revision == head else f"The database is at revision {revision or 'none'}, the application at {head}."
