"""One event from a terminal: what became of it, and what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from hubspot_sync.cli.terminal import (
    AsJson,
    Reveal,
    console,
    counted,
    fail,
    in_one_line,
    moment,
    opened,
    operator,
    print_fields,
    print_json,
    print_rows,
)
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import ATTEMPTS_MAX
from sqlalchemy_outbox.operations import History, Turn

if TYPE_CHECKING:
    from hubspot_sync.inspection import Inspection
    from hubspot_sync.timeline import Step


def show(
    context: typer.Context,
    event: Annotated[UUID, typer.Argument(help="The event's id.")],
    reveal: Reveal = False,
    as_json: AsJson = False,
) -> None:
    """Show one event: what became of it, HubSpot's answers, and the request as it would be sent now.

    Of one that waits it says when its turn comes.

    Examples: `show 3f0c…` · `show 3f0c… --reveal`
    """
    from hubspot_sync.inspection import inspect

    with opened(context) as integration:
        history = operations.read_history(integration.engine, integration.outbox, event)
        if history is None:
            raise fail(f"There is no event {event}; delivered ones are purged after HUBSPOT_RETENTION_DAYS.")
        if reveal:
            operations.reveal(integration.engine, integration.outbox, history.event.subject, by=operator())
        newer = operations.read_newer(integration.engine, integration.outbox, history.event)
        inspection = inspect(history, newer, integration.catalog, is_revealed=reveal)
        if as_json:
            print_json(_as_json(history, inspection))
        else:
            _print(history, inspection)


def _as_json(history: History, inspection: Inspection) -> dict[str, object]:
    return {
        "event": history.summary.as_json() | {"traceparent": history.event.traceparent},
        "waits_for": history.waits_for,
        "next": history.turn and history.turn.as_json(),
        "payload": inspection.payload,
        "discarded": history.discarded and history.discarded.as_json(),
        "deliveries": [delivery.as_json() for delivery in history.deliveries],
        "delivery_count": history.delivery_count,
        "request_now": inspection.request,
        "no_request_now": inspection.objection,
        "audit": [act.as_json() for act in history.audit],
    }


def _print(history: History, inspection: Inspection) -> None:
    event = history.summary
    print_fields(
        [
            ("event", str(event.event_id)),
            ("type", event.event_type),
            ("subject", event.subject),
            ("state", "discarded" if history.discarded else f"{event.state}{' (dry run)' if event.dry_run else ''}"),
            ("attempts", str(event.attempt_count)),
            *([("next", _next(history.turn))] if history.turn else []),
            *([("waits" if history.waits_for else "error", event.last_error)] if event.last_error else []),
        ]
    )
    console.print("\nPayload", style="bold")
    console.print(_pretty(inspection.payload))
    console.print("\nWhat became of it", style="bold")
    print_rows(("at", "what"), _timeline(history))
    if inspection.request is not None:
        console.print("\nAs it would be sent now", style="bold")
        console.print(_pretty(inspection.request))
    if inspection.objection is not None:
        console.print(f"\nIt cannot be sent: {in_one_line(inspection.objection)}")


def _next(turn: Turn) -> str:
    due = f"due at {moment(turn.due_at)}" if turn.due_at else "once what it waits for is there"
    words = f"attempt {turn.attempt} of {ATTEMPTS_MAX}, {due}"
    if not turn.ahead_count:
        return words
    ahead = ", ".join(f"{event.event_id} ({event.state})" for event in turn.ahead)
    more = f" and {turn.ahead_count - len(turn.ahead)} more" if turn.ahead_count > len(turn.ahead) else ""
    return f"{words}, behind {counted(turn.ahead_count, 'event')} of its subject: {ahead}{more}"


def _timeline(history: History) -> Iterator[tuple[str, str]]:
    from hubspot_sync.timeline import steps_of

    enqueued, *others = steps_of(history)
    yield moment(enqueued.at), _in_words(enqueued)
    if (left_out := history.delivery_count - len(history.deliveries)) > 0:
        yield "", f"({left_out} earlier requests are not shown)"
    for step in others:
        yield moment(step.at), _in_words(step)


def _in_words(step: Step) -> str:
    words = ": ".join([step.title, *(["; ".join(step.words)] if step.words else [])])
    return f"{words} ({', '.join(step.facts)})" if step.facts else words


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
