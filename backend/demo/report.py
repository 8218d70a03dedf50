"""What the demo prints: what happens as it happens, two bars in a terminal, and the audit at the end."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from demo.audit import Audit
from demo.play import Tally
from demo.sandbox import Usage
from sqlalchemy_outbox import GateState
from sqlalchemy_outbox.operating.status import Status

_OBJECTIONS_SHOWN = 12
# Without a terminal: so many lines, evenly over all actions and deliveries.
_LINES = 10


class Report:
    """Every line carries the seconds since the demo began."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._began_at = time.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self._began_at

    def say(self, words: str, style: str = "") -> None:
        self.console.print(Text.assemble((f"{self.elapsed_seconds:6.1f} s  ", "dim"), (words, style)))

    @contextmanager
    def bars(self, tally: Tally, events: int) -> Iterator[Bars]:
        """Bars in a terminal, lines elsewhere, for as long as the block lasts."""
        if not self.console.is_terminal:
            yield PlainBars(self, tally, events)
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        ) as progress:
            yield LiveBars(progress, tally, events)

    def show_audit(self, audit: Audit, usage: Usage, retries: Mapping[str, int]) -> None:
        self.console.print()
        self.console.print(_figures(audit, usage, retries, self.elapsed_seconds))
        self.console.print()
        objections = list(audit.objections())
        for text in objections[:_OBJECTIONS_SHOWN]:
            self.console.print(Text(f"✗ {text}", style="red"))
        if (more := len(objections) - _OBJECTIONS_SHOWN) > 0:
            self.console.print(Text(f"… and {more} more", style="red"))
        if not objections:
            self.console.print(
                Text(
                    "✓ Every event that the tables call for reached HubSpot, and every contact is as they say", "green"
                )
            )

    def show_addresses(self, addresses: Mapping[str, str]) -> None:
        self.console.print()
        for name, text in addresses.items():
            self.console.print(Text.assemble((f"{name:>16}  ", "dim"), text))

    def show_environment(self, folder: Path, environment: Mapping[str, str]) -> None:
        """What another terminal needs for the command line to work on the same database and sandbox."""
        self.console.print("\nFor commands in another terminal, such as `python -m app.cli status`, paste:\n")
        self.console.print(Text(f"cd {shlex.quote(str(folder))} && source ../.venv/bin/activate"))
        for name, value in environment.items():
            self.console.print(Text(f"export {name}={shlex.quote(value)}"))

    def show_end(self) -> None:
        self.console.print(Text("\nCtrl-C ends all.", "bold"))

    def show_log_line(self, line: str) -> None:
        """A JSON line of the application's log as level and message; any other line as it is."""
        try:
            fields = json.loads(line)
        except ValueError:
            self.console.print(Text(line))
            return
        self.console.print(Text.assemble((f"{fields.get('level', ''):>8}  ", "dim"), str(fields.get("message", line))))


class LiveBars:
    def __init__(self, progress: Progress, tally: Tally, events: int) -> None:
        self._progress = progress
        self._tally = tally
        self._actions = progress.add_task("drivers' actions ", total=tally.total, note="")
        self._events = progress.add_task("events in HubSpot", total=events, note="")

    def update(self, status: Status) -> None:
        self._progress.update(self._actions, completed=self._tally.done)
        self._progress.update(self._events, completed=status.delivered, note=_note(status))


class PlainBars:
    def __init__(self, report: Report, tally: Tally, events: int) -> None:
        self._report = report
        self._tally = tally
        self._events = events
        self._lines = 0

    def update(self, status: Status) -> None:
        lines = _LINES * (self._tally.done + status.delivered) // (self._tally.total + self._events)
        if lines <= self._lines:
            return
        self._lines = lines
        self._report.say(
            f"{self._tally.done} of {self._tally.total} actions, "
            f"{status.delivered} of {self._events} events in HubSpot, {_note(status)}"
        )


Bars = LiveBars | PlainBars


def percentile(values: Sequence[timedelta], share: float) -> timedelta:
    """The smallest of the values that at least `share` of them do not exceed; zero when there are none."""
    if not values:
        return timedelta(0)
    return sorted(values)[max(0, ceil(len(values) * share) - 1)]


def _counts(counts: Mapping[str, int]) -> str:
    return " · ".join(f"{name} × {count}" for name, count in sorted(counts.items()))


# What a phone met, and repeated its request for.
_CAUSES = {
    "ConnectError": "the application was down",
    "ReadError": "the application was killed in the middle",
    "RemoteProtocolError": "the application was killed in the middle",
    "WriteError": "the application was killed in the middle",
}


def _causes(retries: Mapping[str, int]) -> str:
    counts: Counter[str] = Counter()
    for kind, count in retries.items():
        counts[_CAUSES.get(kind, kind)] += count
    return _counts(counts)


def _note(status: Status) -> str:
    if status.gate.state is GateState.OPEN:
        return f"{status.pending + status.claimed} on their way"
    kind, _, _ = (status.gate.reason or "").partition(":")
    return f"gate {status.gate.state}: {kind}"


def _figures(audit: Audit, usage: Usage, retries: Mapping[str, int], seconds: float) -> Table:
    events = audit.events
    p50, p99 = (percentile(events.latencies, it).total_seconds() for it in (0.5, 0.99))
    per_request = events.delivered / usage.requests if usage.requests else 0.0
    rows: list[tuple[str, int | str, str]] = [
        ("events expected", events.expected, "derived from the business tables"),
        ("delivered", events.delivered, ""),
        ("failed", len(events.failed), ""),
        ("lost", len(events.lost), ""),
        ("surplus", len(events.surplus), ""),
        (
            "contacts that differ",
            audit.contacts_that_differ,
            f"of {audit.drivers} drivers, compared property by property",
        ),
        (
            "drivers forgotten",
            audit.forgotten,
            "accounts deleted meanwhile; no file may have their addresses",
        ),
        ("requests used", usage.requests, _counts(usage.by_status)),
        ("events per request", f"{per_request:.1f}", ""),
        ("commit → HubSpot", f"{p50:.2f} s", f"p50; p99 {p99:.2f} s"),
        ("requests repeated", sum(retries.values()), f"by drivers' phones: {_causes(retries)}" if retries else ""),
        ("wall time", f"{seconds:.1f} s", ""),
    ]
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, value, note in rows:
        table.add_row(name, f"{value:,}" if isinstance(value, int) else value, note)
    return table
