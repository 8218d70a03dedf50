"""An application's lifecycle events on their way to HubSpot's contacts, by a transactional outbox.

    Catalog of LifecycleEvents ─▶ Tracker ─▶ outbox ─▶ worker ─▶ contacts
                                  Integration: the same with settings and an engine, for whatever runs it:
                                  AsgiIntegration · WorkerThread · create_cli · deliver_due

These names are the library's interface, with the module `testing`. What else lies here may change with any version.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubspot_sync.asgi import AsgiIntegration, Serving
    from hubspot_sync.cli import create_cli, run_cli
    from hubspot_sync.errors import ErasureKeyMissing
    from hubspot_sync.event import (
        EMAIL,
        Catalog,
        ContactProperty,
        EmailAddress,
        Instant,
        LifecycleEvent,
        PropertyGroup,
        PropertyType,
        Reference,
        WholeNumber,
    )
    from hubspot_sync.forgetting import ErasureWay, forget
    from hubspot_sync.health import Health, read_health
    from hubspot_sync.integration import Integration
    from hubspot_sync.log_lines import formatter
    from hubspot_sync.logs import configure_logging
    from hubspot_sync.present_state import PresentEvent, PresentState
    from hubspot_sync.runtime import WorkerHost, WorkerState, WorkerStatus, WorkerThread, deliver_due
    from hubspot_sync.settings import HubSpotSettings
    from hubspot_sync.telemetry import Exposition
    from hubspot_sync.tracking import Tracker

__all__ = [
    "EMAIL",
    "AsgiIntegration",
    "Catalog",
    "ContactProperty",
    "EmailAddress",
    "ErasureKeyMissing",
    "ErasureWay",
    "Exposition",
    "Health",
    "HubSpotSettings",
    "Instant",
    "Integration",
    "LifecycleEvent",
    "PresentEvent",
    "PresentState",
    "PropertyGroup",
    "PropertyType",
    "Reference",
    "Serving",
    "Tracker",
    "WholeNumber",
    "WorkerHost",
    "WorkerState",
    "WorkerStatus",
    "WorkerThread",
    "configure_logging",
    "create_cli",
    "deliver_due",
    "forget",
    "formatter",
    "read_health",
    "run_cli",
]

# A module is imported when a name of it is first asked for: commands start without the page, and without HTTP.
_MODULE_OF = {
    "AsgiIntegration": "asgi",
    "Catalog": "event",
    "ContactProperty": "event",
    "EMAIL": "event",
    "EmailAddress": "event",
    "ErasureKeyMissing": "errors",
    "ErasureWay": "forgetting",
    "Exposition": "telemetry",
    "Health": "health",
    "HubSpotSettings": "settings",
    "Instant": "event",
    "Integration": "integration",
    "LifecycleEvent": "event",
    "PresentEvent": "present_state",
    "PresentState": "present_state",
    "PropertyGroup": "event",
    "PropertyType": "event",
    "Reference": "event",
    "Serving": "asgi",
    "Tracker": "tracking",
    "WholeNumber": "event",
    "WorkerHost": "runtime",
    "WorkerState": "runtime",
    "WorkerStatus": "runtime",
    "WorkerThread": "runtime",
    "configure_logging": "logs",
    "create_cli": "cli",
    "deliver_due": "runtime",
    "forget": "forgetting",
    "formatter": "log_lines",
    "read_health": "health",
    "run_cli": "cli",
}


# What the modules of some names import, by the extra that installs it; the others need `hubspot`.
_EXTRA_OF = {"jinja2": "page", "starlette": "page", "rich": "cli", "typer": "cli"}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_MODULE_OF[name]}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = _EXTRA_OF.get(package, "hubspot")
        raise ImportError(f"{name} needs {package}: pip install 'hubspot-outbox[{extra}]'") from error
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return __all__
