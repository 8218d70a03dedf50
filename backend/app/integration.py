"""Nerava's integration, as the environment sets it."""

from __future__ import annotations

from sqlalchemy import Connection

from app.database import create_database_engine, create_listen_engine
from app.events import CATALOG
from app.models import OUTBOX
from app.present_state import PRESENT_STATE
from app.settings import Settings
from hubspot_sync.integration import Integration


def load_integration() -> Integration:
    return integrate(Settings())


def integrate(settings: Settings) -> Integration:
    return Integration(
        settings,
        OUTBOX,
        CATALOG,
        create_database_engine(settings.database_url, settings.database_pooler),
        migration_missing=_migration_missing,
        present_state=PRESENT_STATE,
        listen_engine=create_listen_engine(settings.database_listen_url),
        command_line="python -m app.cli",
        migrate_with="alembic upgrade head",
        version=settings.release,
    )


def _migration_missing(connection: Connection) -> str | None:
    # Alembic takes longer to import than all else, and `doctor` alone asks it.
    from app.migrations import migration_missing  # noqa: PLC0415

    return migration_missing(connection)
