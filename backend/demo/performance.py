"""The order of things: play the script while things go wrong, wait until every event has arrived, audit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from app.settings import BACKEND, OPERATOR_PAGE
from demo.audit import take_audit
from demo.client import NeravaClient
from demo.errors import DemoFailed
from demo.faults import Mishap, carry_out
from demo.play import DRIVERS_AT_A_TIME, Tally, play
from demo.report import Bars, Report
from demo.sandbox import Usage
from demo.script import Script
from demo.stage import OPERATOR_TOKEN, POLL, SERVICE_KEY, Ports, Stage, set_stage
from sqlalchemy_outbox import GateState
from sqlalchemy_outbox.operating.status import Status

ARRIVAL_DEADLINE = timedelta(seconds=60)


class NotArrived(DemoFailed):
    """Events still wait, or the gate is shut, long after the last action."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What a played script took: requests to HubSpot, and unknown outcomes that clients tried again."""

    usage: Usage
    retries: Mapping[str, int]


async def prove(
    script: Script,
    mishaps: Sequence[Mishap],
    ports: Ports,
    report: Report,
    before_audit: Callable[[Stage], Awaitable[None]] | None = None,
) -> int:
    """Play, audit, print, and leave nothing behind; the exit code. Tests spoil something `before_audit`."""
    async with set_stage(ports, report.say) as stage:
        performance = await perform(script, mishaps, stage, report)
        if before_audit is not None:
            await before_audit(stage)
        left = [driver.address for driver in script.leavers]
        audit = await take_audit(stage.engine, stage.account, script.event_types(), left)
    report.show_audit(audit, performance.usage, performance.retries)
    return 1 if any(audit.objections()) else 0


async def stay_up(script: Script, ports: Ports, report: Report) -> NoReturn:
    """Play without mishaps and keep everything up until cancelled; the application's log is printed from then on."""
    async with set_stage(ports, report.say) as stage:
        await perform(script, (), stage, report)
        report.show_addresses(
            {
                "API": f"{stage.application_url}/docs",
                "operator's page": f"{stage.application_url}{OPERATOR_PAGE}",
                "OPERATOR_TOKEN": OPERATOR_TOKEN,
                "HubSpot sandbox": stage.sandbox_url,
                "X-Service-Key": SERVICE_KEY,
                "one-time codes": "below, in the application's log",
            }
        )
        report.show_environment(BACKEND, stage.settings_for_commands)
        report.show_end()
        stage.show_log = report.show_log_line
        await stage.guard()


async def perform(script: Script, mishaps: Sequence[Mishap], stage: Stage, report: Report) -> Performance:
    """Play the script; when this returns, nothing is due and the gate is open."""
    report.say(f"Playing {script.title}: {script.driver_count} drivers, {DRIVERS_AT_A_TIME} at a time.")
    used_before = await stage.account.usage()
    client = NeravaClient(stage.application_url, SERVICE_KEY, stage.codes, DRIVERS_AT_A_TIME)
    tally = Tally(script.action_count)
    try:
        with report.bars(tally, script.event_types().total()) as bars:
            async with asyncio.TaskGroup() as group:
                onlookers = [group.create_task(stage.guard()), group.create_task(_watch(stage, bars))]
                await _play_with_mishaps(script, mishaps, stage, client, tally, report)
                report.say("The drivers are done; waiting for the last events to arrive.")
                bars.update(await _arrival(stage))
                for task in onlookers:
                    task.cancel()
    finally:
        await client.close()
    return Performance((await stage.account.usage()).since(used_before), client.retries)


async def _play_with_mishaps(
    script: Script, mishaps: Sequence[Mishap], stage: Stage, client: NeravaClient, tally: Tally, report: Report
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(carry_out(mishaps, stage, tally, report))
        group.create_task(play(script, client, tally))


async def _watch(stage: Stage, bars: Bars) -> NoReturn:
    while True:
        bars.update(await stage.read_status())
        await asyncio.sleep(POLL.total_seconds())


async def _arrival(stage: Stage) -> Status:
    """Return once nothing is due and the gate is open; raise NotArrived when that takes too long."""
    try:
        async with asyncio.timeout(ARRIVAL_DEADLINE.total_seconds()):
            while not _has_arrived(status := await stage.read_status()):  # noqa: ASYNC110  # Another process does it.
                await asyncio.sleep(POLL.total_seconds())
    except TimeoutError:
        status = await stage.read_status()
        raise NotArrived(
            f"{ARRIVAL_DEADLINE.total_seconds():.0f} s after the last action {status.pending} events are pending, "
            f"{status.claimed} claimed, {status.failed} failed, "
            f"{status.forgetting} erasures not done, and the gate is {status.gate.state}"
            + (f" ({status.gate.reason})." if status.gate.reason else ".")
        ) from None
    return status


def _has_arrived(status: Status) -> bool:
    return status.pending + status.claimed + status.forgetting == 0 and status.gate.state is GateState.OPEN
