"""The worker from a terminal, how it is doing, and the gate that a person may hold."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from hubspot_sync.cli.terminal import (
    AsJson,
    console,
    given,
    in_one_line,
    moment,
    opened,
    operator,
    print_fields,
    print_json,
    print_line,
    require_file,
)
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.gate.row import GateStatus
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.operations import Status

if TYPE_CHECKING:
    from hubspot_sync.integration import Integration
    from sqlalchemy_outbox.delivering.worker import Worker

log = logging.getLogger(__name__)

_WATCH_EVERY_SECONDS = 2.0


def worker(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Deliver what is due, then exit.")] = False,
) -> None:
    """Deliver events until stopped by Ctrl-C or SIGTERM.

    Examples: `worker` · `worker --once`
    """
    from hubspot_sync.runtime import WorkerState, deliver_due, why_no_worker

    with opened(context, needs_file=False, log_level=logging.INFO) as integration:
        if (why_not := why_no_worker(integration, in_app=False)) is not None:
            raise typer.Exit(0 if why_not.state is WorkerState.DISABLED else 1)
        require_file(integration)
        # What start-up has made stays to the end; to search it for garbage would halt deliveries for some 30 ms.
        gc.collect()
        gc.freeze()
        try:
            asyncio.run(deliver_due(integration, _stop_on_signal) if once else _run_worker(integration))
        finally:
            gc.unfreeze()


def status(
    context: typer.Context,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 s, until Ctrl-C.")] = False,
) -> None:
    """Count the events by state, and say whether the gate is open, or since when it is shut.

    Examples: `status` · `status --watch` · `status --json`
    """
    with opened(context) as integration:
        if watch:
            _watch(integration, as_json=as_json)
            return
        found = operations.status(integration.engine, integration.outbox)
        if as_json:
            print_json(found.as_json())
        else:
            print_fields(_lines(found))
            _print_hints(integration)


def hold(
    context: typer.Context,
    reason: Annotated[str, typer.Argument(help="Why, for those who look at the status.")],
) -> None:
    """Let no delivery pass, of any process, until `release`. Events are stored meanwhile, and wait.

    Example: `hold 'import until noon'`
    """
    reason = given(reason, "REASON")
    with opened(context) as integration:
        operations.hold(integration.engine, integration.outbox, reason, by=operator())
        console.print("Deliveries are held until `release`; what is on the wire gets through.")


def release(context: typer.Context) -> None:
    """Open the gate, whoever or whatever shut it. What lasts shuts it again with the next delivery.

    Example: `release`
    """
    with opened(context) as integration:
        before = operations.release(integration.engine, integration.outbox, by=operator())
        was = " and ".join(words for words in _gate_words(before) if words)
        console.print(
            "The gate is open; there was nothing to release."
            if before.state is GateState.OPEN
            else f"Released; it was {was}."
        )


async def _run_worker(integration: Integration) -> None:
    from hubspot_sync.telemetry import Exposition

    port = integration.settings.hubspot_metrics_port
    with Exposition(integration.engine, integration.outbox).served(port) if port else nullcontext():
        await _run_until_stopped(integration)


async def _run_until_stopped(integration: Integration) -> None:
    async with integration.worker() as running:
        _stop_on_signal(running)
        log.info("HubSpot sync worker started")
        await running.run()
        log.info("HubSpot sync worker stopped")


def _stop_on_signal(running: Worker) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.stop)


def _watch(integration: Integration, *, as_json: bool) -> None:
    """Until Ctrl-C: in a terminal in place, elsewhere line by line."""
    from rich.live import Live

    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                found = operations.status(integration.engine, integration.outbox)
                if as_json:
                    print_json(found.as_json())
                elif console.is_terminal:
                    live.update("\n".join(f"{name:>10}  {value}" for name, value in _lines(found)), refresh=True)
                else:
                    print_line("\t".join(f"{name} {value}".strip() for name, value in _lines(found)))
                time.sleep(_WATCH_EVERY_SECONDS)
    except KeyboardInterrupt:
        return


def _lines(found: Status) -> list[tuple[str, str]]:
    lines = [
        ("pending", str(found.pending)),
        ("claimed", str(found.claimed)),
        ("delivered", str(found.delivered)),
        ("failed", str(found.failed)),
    ]
    if found.refused:
        lines.append(("refused", f"{found.refused} of subjects that were forgotten"))
    if found.forgetting:
        lines.append(("forgetting", f"{found.forgetting} subjects, which are not erased everywhere yet"))
    if found.oldest_pending_seconds is not None:
        lines.append(("oldest", f"waits for {found.oldest_pending_seconds:.0f} s"))
    for wait in found.waiting:
        lines.append(("waiting", in_one_line(f"{wait.events} since {moment(wait.since)}: {wait.reason}")))
    lines += [("ids", in_one_line(behind)) for behind in found.behind]
    state, reason = _gate_words(found.gate)
    return [*lines, ("gate", state), *([("", reason)] if reason else [])]


def _gate_words(gate: GateStatus) -> tuple[str, str]:
    state = str(gate.state)
    if gate.held_by:
        state += f" by {gate.held_by}"
    if gate.since:
        state += f" since {moment(gate.since)}"
    if gate.held_by:
        state += " until `release`"
    elif gate.until:
        state += f" until {moment(gate.until)}"
    return in_one_line(state), in_one_line(gate.reason or "")


def _print_hints(integration: Integration) -> None:
    if not integration.settings.hubspot_enabled:
        console.print("HUBSPOT_ENABLED=false: events are stored and wait.")
    elif (missing := integration.settings.missing_for_live()) is not None:
        console.print(f"The worker does not start: {missing}", style="yellow")
