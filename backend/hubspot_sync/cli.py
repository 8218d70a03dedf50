"""The command line of an integration. The application says what it is about; see `app/cli.py`.

Exit codes: 0 done · 1 not done, with the reason in the last line · 2 the command line makes no sense.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from hubspot_sync.client import HubSpotError
from hubspot_sync.integration import Integration
from hubspot_sync.provisioning import Plan, carry_out, plan_provisioning
from hubspot_sync.runtime import WorkerState, why_no_worker
from outbox.gate import Gate, GateShut
from outbox.queries import Status, read_status

T = TypeVar("T")
log = logging.getLogger(__name__)
console = Console(highlight=False, soft_wrap=True)


def create_cli(load: Callable[[], Integration]) -> typer.Typer:
    """Build the commands over the integration that `load` returns."""
    cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Lifecycle events on their way to HubSpot.")

    @cli.command()
    def worker(
        once: Annotated[bool, typer.Option("--once", help="Deliver what is due, then exit.")] = False,
    ) -> None:
        """Deliver events until stopped by Ctrl-C or SIGTERM."""
        integration = load()
        if (status := why_no_worker(integration.settings, in_app=False)) is not None:
            raise typer.Exit(0 if status.state is WorkerState.DISABLED else 1)
        _try(_run_worker(integration, once))

    @cli.command()
    def status(
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
    ) -> None:
        """Count the events by state, and say whether the gate is open."""
        integration = load()
        try:
            with integration.engine.connect() as connection:
                found = read_status(connection, integration.outbox)
        except DBAPIError as error:
            raise _no_outbox(error) from error
        if as_json:
            typer.echo(json.dumps(found.as_json()))
        else:
            _print_status(found, integration)

    @cli.command()
    def provision(
        plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and do nothing.")] = False,
    ) -> None:
        """Create the property group and the contact properties that the events set. Repeatable; deletes nothing."""
        integration = load()
        if not integration.settings.hubspot_private_app_token.get_secret_value():
            raise _fail("HUBSPOT_PRIVATE_APP_TOKEN is empty; set it to look at the account.")
        if _try(_provision(integration, only_plan=plan)).differences:
            raise typer.Exit(1)

    return cli


async def _run_worker(integration: Integration, once: bool) -> None:
    async with integration.worker() as worker:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        log.info("HubSpot sync worker started")
        await (worker.drain() if once else worker.run())
        log.info("HubSpot sync worker stopped")


async def _provision(integration: Integration, *, only_plan: bool) -> Plan:
    gate = Gate(integration.outbox, integration.engine, integration.settings.hubspot_requests_per_second)
    await gate.prepare()
    async with integration.client() as client:
        plan = await plan_provisioning(client, gate, integration.catalog)
        for line in plan.lines():
            console.print(f"  {line}")
        if not only_plan:
            async for line in carry_out(plan, client, gate, integration.catalog):
                console.print(f"✓ {line}", style="green")
    # What held deliveries may be mended: let the next one find out.
    await gate.prepare()
    return plan


def _try(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or exit 1 with what went wrong."""
    try:
        return asyncio.run(coroutine)
    except (HubSpotError, GateShut) as error:
        raise _fail(str(error)) from error
    except DBAPIError as error:
        raise _no_outbox(error) from error


def _print_status(status: Status, integration: Integration) -> None:
    rows = {
        "pending": status.pending,
        "claimed": status.claimed,
        "delivered": status.delivered,
        "failed": status.failed,
    }
    for name, count in rows.items():
        console.print(f"{name:>10}  {count}")
    if status.oldest_pending_seconds is not None:
        console.print(f"{'oldest':>10}  waits for {status.oldest_pending_seconds:.0f} s")
    gate = status.gate
    console.print(f"{'gate':>10}  {gate.state}" + (f" until {gate.until:%Y-%m-%d %H:%M:%S} UTC" if gate.until else ""))
    if gate.reason:
        console.print(f"{'':>10}  {gate.reason}")
    if not integration.settings.hubspot_enabled:
        console.print("HUBSPOT_ENABLED=false: events are stored and wait.")
    elif (missing := integration.settings.missing_for_live()) is not None:
        console.print(f"The worker does not start: {missing}", style="yellow")


def _fail(message: str) -> typer.Exit:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red")
    return typer.Exit(1)


def _no_outbox(error: DBAPIError) -> typer.Exit:
    first_line = str(error.orig).splitlines()[0]
    return _fail(f"The database does not serve the outbox ({first_line}). Is it there, and migrated to head?")
