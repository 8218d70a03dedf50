"""`python -m demo`: the main job on real traffic, proven. Exit code 0 only if nothing is lost and nothing differs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from demo.errors import DemoFailed
from demo.evening import DRIVERS, EVENTS, SEED, write_evening
from demo.faults import SCHEDULE
from demo.interruption import Interrupted, run
from demo.performance import prove, stay_up
from demo.report import Report
from demo.script import Script
from demo.sessions import read_sessions, write_script
from demo.stage import Ports, free_ports

STAYING_DRIVERS = 40
STAYING_EVENTS = 300


def main(
    sessions: Annotated[Path | None, typer.Option(help="Play this CSV export of charging sessions.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Play a little without faults, then stay up.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the application that stays up.")] = 8000,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the sandbox that stays up.")] = 8025,
    drivers: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    events: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    seed: Annotated[int, typer.Option(hidden=True)] = SEED,
) -> None:
    """An evening at a charging hub, HubSpot's failures included, and an audit of what reached HubSpot."""
    exit_code = 1
    try:
        if stay:
            evening = write_evening(drivers or STAYING_DRIVERS, events or STAYING_EVENTS, seed)
            exit_code = _stay(evening, Ports(port, sandbox_port))
        else:
            exit_code = _prove(
                _read(sessions) if sessions else write_evening(drivers or DRIVERS, events or EVENTS, seed)
            )
    except* DemoFailed as failures:
        for failure in _leaves(failures):
            Console(stderr=True, highlight=False, soft_wrap=True).print(str(failure), style="red", markup=False)
    sys.exit(exit_code)


def _prove(script: Script) -> int:
    try:
        return run(prove(script, SCHEDULE, free_ports(), Report()))
    except Interrupted as interrupted:
        return interrupted.exit_code


def _stay(script: Script, ports: Ports) -> int:
    try:
        run(stay_up(script, ports, Report()))
    except Interrupted:
        # There is no other way to end it.
        return 0


def _read(path: Path) -> Script:
    return write_script(read_sessions(path), f"the charging sessions of {path.name}")


def _leaves(group: BaseExceptionGroup[DemoFailed]) -> Iterator[DemoFailed]:
    for error in group.exceptions:
        if isinstance(error, DemoFailed):
            yield error
        else:
            yield from _leaves(error)


if __name__ == "__main__":
    typer.run(main)
