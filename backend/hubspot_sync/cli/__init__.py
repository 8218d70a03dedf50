"""The command line of an integration, to be run under the application's own name.

    cli = create_cli(load_integration)     a typer application: mount it, call it, test it
    run_cli(load_integration)              for a module or a script that is nothing else

    running   worker, status, hold, release
    events    events, reasons, retry, discard, purge, audit
    history   show
    fleet     history, workers
    contacts  contact, resync
    erasures  forget
    account   provision, doctor

A command imports what it alone needs when it runs, so that the others start sooner.

Exit codes: 0 done · 1 not done, with the reason in the last line · 2 the command line makes no sense.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import typer

from hubspot_sync.cli import account, contacts, erasures, events, fleet, history, running
from hubspot_sync.cli.command_line import CommandLine

if TYPE_CHECKING:
    from hubspot_sync.integration import Integration

_PANELS = {
    "Deliveries": (running.worker, running.status, fleet.history, fleet.workers, running.hold, running.release),
    "Events": (events.events, events.reasons, history.show, events.retry, events.discard, events.purge, events.audit),
    "Contacts": (contacts.contact, contacts.resync, erasures.forget),
    "The account": (account.provision, account.doctor),
}


def create_cli(load: Callable[[], Integration]) -> typer.Typer:
    """Build the commands over the integration that `load` returns. A command that runs calls it; help does not."""
    cli = typer.Typer(
        cls=CommandLine,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        help="Lifecycle events on their way to HubSpot.\n\n"
        "Exit codes: 0 done; 1 not done, with the reason in the last line; 2 the command line makes no sense. "
        "Results go to stdout, progress and errors to stderr; `--json` prints one JSON document.",
    )

    @cli.callback()
    def remember(context: typer.Context) -> None:
        context.obj = load

    for panel, commands in _PANELS.items():
        for command in commands:
            cli.command(rich_help_panel=panel)(command)
    return cli


def run_cli(load: Callable[[], Integration]) -> None:
    """Run the command that the process's arguments name, and end the process."""
    create_cli(partial(_load_for_good, load))()


def _load_for_good(load: Callable[[], Integration]) -> Integration:
    """For a process that ends with its command.

    What was imported stays; to search it for garbage, at last when the process ends, takes a third of `status`.
    """
    gc.disable()
    try:
        return load()
    finally:
        gc.freeze()
        gc.enable()
