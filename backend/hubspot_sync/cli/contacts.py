"""Subjects and their contacts from a terminal: compare the two ends, and send subjects anew."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.exc import DBAPIError

from hubspot_sync.cli.terminal import (
    AsJson,
    Reveal,
    Yes,
    console,
    counted,
    fail,
    moment,
    opened,
    operator,
    print_json,
    print_rows,
    progress_bar,
)
from sqlalchemy_outbox import operations

if TYPE_CHECKING:
    from hubspot_sync.contact import ContactView, HubSpotContact, Value
    from hubspot_sync.integration import Integration
    from hubspot_sync.resync import Resync


def contact(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="Who: the id that the events carry.")],
    reveal: Reveal = False,
    as_json: AsJson = False,
) -> None:
    """Compare what was last sent of a subject with what HubSpot has now. Exit code 1 where the two differ.

    Examples: `contact 42` · `contact 42 --reveal`
    """
    from hubspot_sync.contact import Presence, look_at_contact

    with opened(context) as integration:
        if reveal:
            operations.reveal(integration.engine, integration.outbox, subject, by=operator())
        view = asyncio.run(look_at_contact(integration, subject))
        shown = view if reveal else view.redacted()
        if as_json:
            print_json(shown.as_json())
        else:
            _print_contact(shown)
        if view.differences or view.contact.presence is Presence.UNKNOWN:
            raise typer.Exit(1)


def resync(
    context: typer.Context,
    subjects: Annotated[list[str] | None, typer.Argument(metavar="[SUBJECT...]")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every subject there is.")] = False,
    after: Annotated[str | None, typer.Option(help="Go on with --all behind this subject.")] = None,
    yes: Yes = False,
) -> None:
    """Send subjects anew, as they stand now: the first backfill, the step from a dry run to live, a deleted contact.

    Subjects that are named are sent at once; of `--all` the number is told first, and `--yes` does it. Interrupted,
    it says how to go on.

    Examples: `resync 42 43` · `resync --all --yes`
    """
    from hubspot_sync.resync import EventsLost, Resync

    if bool(subjects) == every:
        raise typer.BadParameter("name subjects, or say --all")
    if subjects and after is not None:
        raise typer.BadParameter("it is for --all, and subjects are named", param_hint="--after")
    with opened(context) as integration:
        if integration.present_state is None:
            raise fail("The application does not say how its subjects stand, so nothing can be sent anew.")
        work = Resync(
            integration.engine, integration.outbox, integration.catalog, integration.present_state, by=operator()
        )
        try:
            _resync(work, subjects or [], after, yes=yes)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        except EventsLost as error:
            raise fail(str(error)) from error
        _hint_if_disabled(integration)


def _resync(work: Resync, subjects: list[str], after: str | None, *, yes: bool) -> None:
    from hubspot_sync.resync import EventsLost, Progress

    total = len(set(subjects)) if subjects else work.count(after)
    if not subjects and not yes:
        console.print(f"{counted(total, 'subject')} would be sent anew." + (" Add --yes to do it." if total else ""))
        return
    progress = Progress(last=after)
    try:
        with progress_bar() as bar:
            task = bar.add_task("Resync", total=total)
            for progress in work.these(subjects) if subjects else work.all(after):
                bar.update(task, completed=progress.subjects)
    except (KeyboardInterrupt, DBAPIError, EventsLost) as error:
        if not subjects and progress.last is not None:
            fail(f"To go on: resync --all --after {progress.last} --yes")
        if isinstance(error, KeyboardInterrupt):
            raise fail("Interrupted.") from None
        raise
    console.print(f"Pending: {counted(progress.events, 'event')} for {counted(progress.subjects, 'subject')}.")
    if progress.unknown:
        raise fail(f"Unknown: {', '.join(progress.unknown)}")


def _hint_if_disabled(integration: Integration) -> None:
    settings = integration.settings
    if not settings.hubspot_enabled:
        console.print("HUBSPOT_ENABLED=false: they wait until a worker runs.")
    elif not settings.hubspot_send_live:
        console.print("HUBSPOT_SEND_LIVE=false: a dry run uses them up.", style="yellow")


def _print_contact(view: ContactView) -> None:
    console.print(f"{view.subject}: {_presence(view.contact)}")
    known = [value for value in view.values if value.sent is not None or value.found is not None]
    print_rows(("", "property", "last sent", "HubSpot has"), (_value_row(value) for value in known))
    console.print("\nEvents", style="bold")
    print_rows(
        ("event", "state", "type", "enqueued", "error"),
        (
            (str(event.event_id), str(event.state), event.event_type, moment(event.created_at), event.last_error or "")
            for event in view.events
        ),
    )


def _presence(contact: HubSpotContact) -> str:
    from hubspot_sync.contact import Presence

    match contact.presence:
        case Presence.FOUND:
            return f"contact {contact.record_id} in HubSpot, found by {contact.found_by}"
        case Presence.MISSING:
            return "HubSpot has no such contact"
        case Presence.UNKNOWN:
            return f"what HubSpot has is not known: {contact.reason}"


def _value_row(value: Value) -> tuple[str, ...]:
    return "≠" if value.differs else "", value.property.name, value.sent or "", value.found or ""
