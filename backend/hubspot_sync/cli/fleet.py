"""Workers and their past from a terminal: who lives, and what happened over a range of time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

import typer

from hubspot_sync.cli.terminal import AsJson, console, moment, opened, print_json, print_rows
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.operations import KnownWorker, Range, Series

_HEADINGS = ("at", "enqueued", "delivered", "failed", "requests", "in vain", "lag", "waiting", "what happened")


def history(
    context: typer.Context,
    range_: Annotated[Range, typer.Option("--range", help="How far back.")] = Range.DAY,
    as_json: AsJson = False,
) -> None:
    """Say what happened: figures by equal spans, when the gate was shut and why, deploys, and what people did.

    Times are UTC. Where no worker lived, nothing is known but what was enqueued. `in vain` are requests that were
    refused, throttled or not answered.

    Examples: `history --range 1h` · `history --range 7d --json`
    """
    with opened(context) as integration:
        series = operations.read_series(integration.engine, integration.outbox, range_)
        if as_json:
            print_json(series.as_json())
        else:
            print_rows(_HEADINGS, _rows(series))


def workers(context: typer.Context, as_json: AsJson = False) -> None:
    """Say which workers live, of which version, and what they do; and when those were seen last that do not.

    Example: `workers --json`
    """
    with opened(context) as integration:
        known = operations.read_workers(integration.engine, integration.outbox)
        if as_json:
            print_json({"workers": [worker.as_json() for worker in known]})
            return
        headings = ("worker", "version", "state", "since", "seen", "in flight", "events/s", "requests/s")
        print_rows(headings, (_worker_row(worker) for worker in known))
        if console.is_terminal and not any(worker.is_alive for worker in known):
            console.print("No worker lives.", style="yellow")


def _rows(series: Series) -> Iterator[tuple[str, ...]]:
    for point in series.points:
        gate = dict.fromkeys(f"gate {closure.state}: {closure.reason}" for closure in series.closures_in(point))
        marks = (f"{mark.kind} {mark.words}" for mark in series.marks_in(point))
        if (counts := point.counts) is None:
            happened = "; ".join(["no worker lived", *gate, *marks])
            yield (moment(point.at), str(point.enqueued or ""), *[""] * (len(_HEADINGS) - 3), happened)
            continue
        in_vain = counts.refused + counts.throttled + counts.unanswered
        numbers = (counts.enqueued, counts.delivered, counts.failed, counts.answered + in_vain, in_vain)
        lag = str(timedelta(seconds=round(counts.lag_seconds)))
        yield moment(point.at), *map(str, numbers), lag, str(counts.waiting), "; ".join([*gate, *marks])


def _worker_row(worker: KnownWorker) -> tuple[str, ...]:
    state = "alive" if worker.is_alive else "dead" if worker.is_dead else "stopped"
    doing = (worker.in_flight, worker.events_per_second, worker.requests_per_second) if worker.is_alive else ()
    told = ("" if value is None else f"{value:g}" for value in doing)
    columns = (worker.name, worker.version or "", state, moment(worker.started_at), moment(worker.seen_at), *told)
    return columns + ("",) * (8 - len(columns))
