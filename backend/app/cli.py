"""`python -m app.cli`: Nerava's events on their way to HubSpot."""

from __future__ import annotations

from app.database import create_database_engine, create_listen_engine, migration_missing
from app.events import CATALOG
from app.logs import configure_logging
from app.models import OUTBOX
from app.present_state import PRESENT_STATE
from app.settings import Settings
from hubspot_sync.cli import create_cli
from hubspot_sync.integration import Integration


def load_integration() -> Integration:
    """Nerava's integration, as the environment sets it."""
    settings = Settings()
    engine = create_database_engine(settings.database_url, settings.database_pooler)
    listen_engine = create_listen_engine(settings.database_listen_url)
    return Integration(settings, OUTBOX, CATALOG, engine, migration_missing, PRESENT_STATE, listen_engine)


def _load() -> Integration:
    configure_logging()
    return load_integration()


cli = create_cli(_load)

if __name__ == "__main__":
    cli()
