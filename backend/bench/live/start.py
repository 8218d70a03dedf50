"""What it costs to start a command, beside the imports without which none can be."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.figures import Demand, Figure, Rounds
from bench.ground import Ground

_IMPORTS = "import sqlalchemy, psycopg, pydantic, typer"
_COMMANDS = ("status", "--help")
_DEMAND = Demand(at_most=1.9, aim="aim 1.5")


def measure(ground: Ground) -> list[Figure]:
    rounds = Rounds()
    with ground.database() as engine:
        environment = os.environ | {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
        for n in ground.rounds:
            rounds.add("imports", _processor_ms(environment, "-c", _IMPORTS))
            for command in _COMMANDS:
                rounds.add(command, _processor_ms(environment, "-m", "app.cli", command))
            took = ", ".join(f"{name} {rounds[name][-1]:.0f}" for name in rounds.samples)
            ground.say(f"start, round {n}, ms of the processor: {took}")
    note = "processor time of the whole process"
    return [
        Figure(f"start of `{command}`", f"`{_IMPORTS}`", "ms", rounds[command], rounds["imports"], _DEMAND, note)
        for command in _COMMANDS
    ]


def _processor_ms(environment: Mapping[str, str], *arguments: str) -> float:
    """Of a Python that is started and ends, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    folder = Path(__file__).parents[2]
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
