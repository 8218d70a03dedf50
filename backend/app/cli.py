"""`python -m app.cli`: Nerava's events on their way to HubSpot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.logs import configure_nerava_logging
from hubspot_sync.cli import create_cli, run_cli

if TYPE_CHECKING:
    from hubspot_sync.integration import Integration


def _load() -> Integration:
    # Help is shown without it.
    from app.integration import load_integration  # noqa: PLC0415

    configure_nerava_logging()
    return load_integration()


cli = create_cli(_load)

if __name__ == "__main__":
    run_cli(_load)
