"""The command line of an integration. The application says what it is about; see `app/cli.py`.

Exit codes: 0 done · 1 not done, with the reason in the last line · 2 the command line makes no sense.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.console import Console
from sqlalchemy.exc import DBAPIError

from hubspot_sync.account import objection_to
from hubspot_sync.client import HubSpotError
from hubspot_sync.doctor import Check, Finding, examine
from hubspot_sync.integration import Integration
from hubspot_sync.provisioning import Plan, carry_out, look_at_account, plan_provisioning
from hubspot_sync.runtime import WorkerState, why_no_worker
from hubspot_sync.telemetry import Exposition
from outbox import operations
from outbox.gate import GateShut, read_gate
from outbox.model import GateState, State
from outbox.operations import EventIds
from outbox.queries import Status, read_status
from outbox.worker import Worker

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
        with _opened(load) as integration:
            if (status := why_no_worker(integration.settings, in_app=False)) is not None:
                raise typer.Exit(0 if status.state is WorkerState.DISABLED else 1)
            asyncio.run(_drain(integration) if once else _run_worker(integration))

    @cli.command()
    def status(
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
    ) -> None:
        """Count the events by state, and say whether the gate is open."""
        with _opened(load) as integration:
            with integration.engine.connect() as connection:
                found = read_status(connection, integration.outbox)
            if as_json:
                typer.echo(json.dumps(found.as_json()))
            else:
                _print_status(found, integration)

    @cli.command()
    def retry(
        events: Annotated[list[UUID], typer.Argument(metavar="EVENT...", help="Ids of failed events.")],
    ) -> None:
        """Try failed events again, with all their attempts. What newer events said of their subjects stands."""
        with _opened(load) as integration:
            engine, outbox, types = integration.engine, integration.outbox, integration.catalog.types
            known = {it.event_id: it for it in operations.read_events(engine, outbox, events)}
            for _ in operations.retry(engine, outbox, EventIds(frozenset(events)), types, by=_operator()):
                pass
            is_complete = True
            for event_id in events:
                event = known.get(event_id)
                is_retried = event is not None and event.state is State.FAILED and event.event_type in types
                answer = "pending again" if is_retried else "left alone: not failed, or of no known type"
                console.print(f"{event_id}  {answer}")
                is_complete &= is_retried
            if not is_complete:
                raise typer.Exit(1)

    @cli.command()
    def provision(
        plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and do nothing.")] = False,
    ) -> None:
        """Create the property group and the contact properties that the events set. Repeatable; deletes nothing."""
        with _opened(load) as integration:
            if not integration.settings.hubspot_private_app_token.get_secret_value():
                raise _fail("HUBSPOT_PRIVATE_APP_TOKEN is empty; set it to look at the account.")
            if asyncio.run(_provision(integration, only_plan=plan)).differences:
                raise typer.Exit(1)

    @cli.command()
    def doctor(
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
    ) -> None:
        """Look at all that deliveries depend on, and say what to do. Exit code 1 if something fails."""
        with _opened(load) as integration:
            checks = asyncio.run(examine(integration))
            if as_json:
                typer.echo(json.dumps({"checks": [it.as_json() for it in checks]}))
            else:
                _print_checks(checks)
            if any(it.finding is Finding.FAIL for it in checks):
                raise typer.Exit(1)

    return cli


@contextmanager
def _opened(load: Callable[[], Integration]) -> Iterator[Integration]:
    """The integration for one command; what a person can mend ends it with exit code 1 and one line."""
    try:
        integration = load()
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, it['loc'])).upper()}: {it['msg']}" for it in error.errors(include_input=False))
        raise _fail("\n".join(problems)) from None
    try:
        yield integration
    except DBAPIError as error:
        first_line = str(error.orig).splitlines()[0]
        raise _fail(
            f"The database does not serve the outbox ({first_line}). Is it there, and migrated to head?"
        ) from error
    except (HubSpotError, GateShut) as error:
        raise _fail(str(error)) from error
    finally:
        integration.engine.dispose()


async def _run_worker(integration: Integration) -> None:
    port = integration.settings.hubspot_metrics_port
    with Exposition(integration.engine, integration.outbox).served(port) if port else nullcontext():
        await _run_until_stopped(integration)


async def _run_until_stopped(integration: Integration) -> None:
    async with integration.worker() as worker:
        _stop_on_signal(worker)
        log.info("HubSpot sync worker started")
        await worker.run()
        log.info("HubSpot sync worker stopped")


async def _drain(integration: Integration) -> None:
    """Deliver what is due; raise GateShut when the gate kept some of it back."""
    async with integration.worker() as worker:
        _stop_on_signal(worker)
        await worker.drain()
    with integration.engine.connect() as connection:
        gate = read_gate(connection, integration.outbox)
    if gate.state is not GateState.OPEN:
        raise GateShut(gate)


def _stop_on_signal(worker: Worker) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)


async def _provision(integration: Integration, *, only_plan: bool) -> Plan:
    gate = integration.gate()
    await gate.prepare()
    async with integration.client() as client:
        account = await look_at_account(client, gate)
        console.print(f"portal {account.portal_id} ({account.type})")
        if not only_plan and (objection := objection_to(account, integration.settings.hubspot_portal_id)) is not None:
            raise _fail(f"Nothing was created: {objection}")
        plan = await plan_provisioning(client, gate, integration.catalog)
        for line in plan.lines():
            console.print(f"  {line}")
        if not only_plan:
            async for line in carry_out(plan, client, gate, integration.catalog):
                console.print(f"✓ {line}", style="green")
    # What held deliveries may be mended: let the next one find out.
    await gate.prepare()
    return plan


def _print_checks(checks: list[Check]) -> None:
    styles = {Finding.PASS: "green", Finding.WARN: "yellow", Finding.FAIL: "red"}
    for check in checks:
        console.print(f"{check.finding:<4}  {check.name}: {check.detail}", style=styles[check.finding], markup=False)
        if check.remedy:
            console.print(f"      {check.remedy}", markup=False)


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


def _operator() -> str:
    """Who acts, as the audit names them."""
    return f"cli:{getpass.getuser()}"


def _fail(message: str) -> typer.Exit:
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red")
    return typer.Exit(1)
