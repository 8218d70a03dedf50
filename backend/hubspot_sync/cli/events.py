"""Events from a terminal: find them, look at one, and try failed ones again or take them out."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from hubspot_sync.cli.terminal import (
    AsJson,
    Yes,
    a_while,
    an_instant,
    carry_out,
    console,
    counted,
    fail,
    given,
    moment,
    opened,
    operator,
    print_json,
    print_rows,
)
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import State
from sqlalchemy_outbox.operations import AuditEntry, EventFilter, EventIds, EventSummary, Selection

if TYPE_CHECKING:
    from hubspot_sync.integration import Integration

_PAGE_MAX = 1000
# Both databases' largest.
_ID_MAX = 2**63 - 1

Limit = Annotated[int, typer.Option(min=1, max=_PAGE_MAX, help="How many at most.")]
Before = Annotated[int | None, typer.Option(min=1, max=_ID_MAX, help="Go on where a page ended: its `next`.")]
Type = Annotated[str | None, typer.Option("--type", help="Of this event type.")]
Subject = Annotated[str | None, typer.Option(help="Of this subject.")]
Reason = Annotated[str | None, typer.Option(help="Failed for this reason, as `reasons` prints it.")]
OlderThan = Annotated[
    timedelta | None, typer.Option(parser=a_while, metavar="TIME", help="Enqueued longer ago: 90s, 5m, 2h, 30d.")
]
Since = Annotated[
    datetime | None,
    typer.Option(parser=an_instant, metavar="INSTANT", help="Enqueued then or later: 2h (ago), 2026-12-01T03:00Z."),
]
Until = Annotated[
    datetime | None,
    typer.Option(parser=an_instant, metavar="INSTANT", help="Enqueued before: 2h (ago), 2026-12-01T03:00Z."),
]
FailedEvents = Annotated[list[UUID] | None, typer.Argument(metavar="[EVENT...]", help="Ids of failed events.")]
All = Annotated[bool, typer.Option("--all", help="Every failed event.")]


def events(
    context: typer.Context,
    state: Annotated[State | None, typer.Option(help="In this state.")] = None,
    event_type: Type = None,
    subject: Subject = None,
    older_than: OlderThan = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """List events, newest first. Those that wait say when they are due.

    Examples: `events --state failed` · `events --subject 42 --json` · `events --since 2h` ·
    `events --since 2026-12-01T01:00Z --until 2026-12-01T03:00Z`
    """
    with opened(context) as integration:
        wanted = EventFilter(state, event_type, subject, older_than, reason, since, until)
        found = operations.find_events(integration.engine, integration.outbox, wanted, before=before, limit=limit)
        following = found[-1].id if len(found) == limit else None
        if as_json:
            print_json({"events": [event.as_json() for event in found], "next": following})
            return
        print_rows(
            ("event", "state", "type", "subject", "enqueued", "attempts", "due", "error"),
            (_event_row(event) for event in found),
        )
        if console.is_terminal:
            number = operations.count_found(integration.engine, integration.outbox, wanted)
            least = "" if number.is_all else "at least "
            console.print(f"Found: {least}{counted(number.count, 'event')}.", style="dim")
        if following is not None and console.is_terminal:
            console.print(f"More: add --before {following}", style="dim")


def reasons(context: typer.Context, as_json: AsJson = False) -> None:
    """Say why events have failed, the most frequent reason first. Ids and numbers in a reason read `#`.

    Examples: `reasons` · `reasons --json`
    """
    with opened(context) as integration:
        found = operations.failure_reasons(integration.engine, integration.outbox)
        if as_json:
            print_json({"reasons": [reason.as_json() for reason in found]})
        else:
            print_rows(
                ("events", "newest", "reason"),
                ((str(reason.count), str(reason.newest.event_id), reason.reason) for reason in found),
            )


def retry(
    context: typer.Context,
    events: FailedEvents = None,
    event_type: Type = None,
    subject: Subject = None,
    older_than: OlderThan = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    cautious: Annotated[
        bool, typer.Option("--cautious", help="Leave alone what newer events that no worker can read may have set.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Try failed events again, with all their attempts. What newer events said of their subjects stands.

    Events that are named are tried at once; of a filter the number is told first, and `--yes` does it.

    Examples: `retry 3f0c…` · `retry --reason 'HubSpot refused it: INVALID_EMAIL' --yes` · `retry --all --yes`
    """
    asked = EventFilter(State.FAILED, event_type, subject, older_than, reason, since, until)
    chosen = _chosen(events, asked, every=every)
    with opened(context) as integration:
        if events:
            _retry_named(integration, events, is_cautious=cautious)
            return
        engine, outbox, types = integration.engine, integration.outbox, integration.types
        if _is_meant(operations.count(engine, outbox, chosen, types), "would be tried again", yes=yes):
            steps = operations.retry(engine, outbox, chosen, types, by=operator(), is_cautious=cautious)
            done = carry_out(steps, "Retry")
            console.print(f"Pending again: {counted(done, 'event')}.")


def discard(
    context: typer.Context,
    why: Annotated[str, typer.Option("--why", help="For the audit: why nobody needs them.")],
    events: FailedEvents = None,
    event_type: Type = None,
    subject: Subject = None,
    older_than: OlderThan = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    yes: Yes = False,
) -> None:
    """Take failed events out for good. The number is told first, and `--yes` does it; each is kept beside the outbox.

    Examples: `discard 3f0c… --why 'a test account' --yes` · `discard --subject 42 --why 'left us' --yes`
    """
    why = given(why, "--why")
    asked = EventFilter(State.FAILED, event_type, subject, older_than, reason, since, until)
    chosen = _chosen(events, asked, every=every)
    with opened(context) as integration:
        engine, outbox = integration.engine, integration.outbox
        if _is_meant(operations.count(engine, outbox, chosen), "would be discarded", yes=yes):
            done = carry_out(operations.discard(engine, outbox, chosen, by=operator(), reason=why), "Discard")
            console.print(f"Discarded: {counted(done, 'event')}.")
            if events and done < len(set(events)):
                raise fail(f"{len(set(events)) - done} of those named were left alone: they have not failed.")


def purge(
    context: typer.Context,
    older_than: Annotated[
        timedelta | None,
        typer.Option(parser=a_while, metavar="TIME", help="30d, say; HUBSPOT_RETENTION_DAYS unless told."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Delete what was delivered or discarded long ago, as a worker does that has nothing else to do.

    Examples: `purge --older-than 7d` · `purge --older-than 7d --yes`
    """
    with opened(context) as integration:
        kept = timedelta(days=integration.settings.hubspot_retention_days)
        age = kept if older_than is None else older_than
        steps = operations.purge(integration.engine, integration.outbox, age, by=operator())
        if _is_meant(next(steps).total, "would be deleted", yes=yes):
            console.print(f"Deleted: {counted(carry_out(steps, 'Purge'), 'event')}.")


def audit(
    context: typer.Context,
    limit: Limit = 50,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """Say who did what, newest first.

    Examples: `audit` · `audit --limit 200 --json`
    """
    with opened(context) as integration:
        found = operations.read_audit(integration.engine, integration.outbox, before=before, limit=limit)
        if as_json:
            following = found[-1].id if len(found) == limit else None
            print_json({"entries": [act.as_json() for act in found], "next": following})
        else:
            print_rows(("at", "by", "action", "events", "reason", "detail"), (_audit_row(act) for act in found))


def _retry_named(integration: Integration, event_ids: list[UUID], *, is_cautious: bool) -> None:
    engine, outbox, types = integration.engine, integration.outbox, integration.types
    known = {event.event_id: event for event in operations.read_events(engine, outbox, event_ids)}
    chosen = EventIds(frozenset(event_ids))
    carry_out(operations.retry(engine, outbox, chosen, types, by=operator(), is_cautious=is_cautious), "Retry")
    is_complete = True
    for event_id in event_ids:
        event = known.get(event_id)
        is_retried = event is not None and event.state is State.FAILED and event.event_type in types
        console.print(f"{event_id}  {'pending again' if is_retried else 'left alone: not failed, or of no known type'}")
        is_complete &= is_retried
    if not is_complete:
        raise typer.Exit(1)


def _chosen(events: list[UUID] | None, asked: EventFilter, *, every: bool) -> Selection:
    """Those that are named, those of a filter, or all; just one of these, so that none is passed over in silence."""
    if [bool(events), asked != EventFilter(State.FAILED), every].count(True) != 1:
        raise typer.BadParameter("name events, or a filter, or --all for every failed event; one of them")
    return EventIds(frozenset(events)) if events else asked


def _is_meant(count: int, words: str, *, yes: bool) -> bool:
    if not yes:
        console.print(f"{counted(count, 'event')} {words}." + (" Add --yes to do it." if count else ""))
    return yes


def _event_row(event: EventSummary) -> tuple[str, ...]:
    state = f"{event.state}{' (dry run)' if event.dry_run else ''}"
    return (
        str(event.event_id),
        state,
        event.event_type,
        event.subject,
        moment(event.created_at),
        str(event.attempt_count),
        "set apart" if event.is_set_apart else moment(event.due_at),
        event.last_error or "",
    )


def _audit_row(entry: AuditEntry) -> tuple[str, ...]:
    detail = json.dumps(entry.detail, ensure_ascii=False) if entry.detail else ""
    return moment(entry.at), entry.by, entry.action, str(entry.count), entry.reason or "", detail
