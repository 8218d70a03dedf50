"""`python -m app.cli`: Nerava's events on their way to HubSpot."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from app.logs import configure_logging
from hubspot_sync.cli import create_cli

if TYPE_CHECKING:
    from hubspot_sync.integration import Integration


def _load() -> Integration:
    # Help is shown without it.
    from app.integration import load_integration  # noqa: PLC0415

    configure_logging()
    return load_integration()


def _load_for_good() -> Integration:
    """For a process that ends with its command.

    What was imported stays; to search it for garbage, at last when the process ends, takes a third of `status`.
    """
    gc.disable()
    try:
        return _load()
    finally:
        gc.freeze()
        gc.enable()


cli = create_cli(_load)

if __name__ == "__main__":
    create_cli(_load_for_good)()
