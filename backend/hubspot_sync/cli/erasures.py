"""Somebody is forgotten from a terminal, and the certificate of it shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hubspot_sync.cli.terminal import (
    AsJson,
    Yes,
    console,
    counted,
    fail,
    given,
    in_one_line,
    moment,
    opened,
    operator,
    print_fields,
    print_json,
)
from sqlalchemy_outbox import operations

if TYPE_CHECKING:
    from hubspot_sync.integration import Integration
    from sqlalchemy_outbox.erasure.certificates import Certificate


def forget(
    context: typer.Context,
    subject: Annotated[str | None, typer.Argument(help="Who: the id that the events carry.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept for good, so let it name nobody.")] = None,
    archive: Annotated[
        bool, typer.Option("--archive", help="Delete the contact as people do: for 90 days it can be restored.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Show what was erased where, and when.")] = False,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Have the database let go of the space of what was deleted.")
    ] = False,
    as_json: AsJson = False,
    yes: Yes = False,
) -> None:
    """Erase a subject here and in HubSpot, for good. The application's own rows are the application's to erase.

    Without `--yes` it says what would be done. Exit code 1 of `--status`: nobody was forgotten so, or it is not done.

    Examples: `forget 42 --reason 'asked by letter' --yes` · `forget 42 --status --json` · `forget --vacuum`
    """
    with opened(context) as integration:
        if vacuum:
            if subject is not None or status:
                raise typer.BadParameter("it is about all that was deleted", param_hint="--vacuum")
            if left := operations.vacuum(integration.engine, integration.outbox):
                raise fail(f"Not vacuumed, for this role does not own them, or not now: {', '.join(left)}")
            console.print("The space of what was deleted is let go. Backups and replicas are not ours to reach.")
            return
        if subject is None:
            raise typer.BadParameter("say who", param_hint="SUBJECT")
        if status:
            _show(integration, subject, as_json=as_json)
            return
        _forget(integration, subject, given(reason or "", "--reason"), is_archive=archive, yes=yes)


def _forget(integration: Integration, subject: str, reason: str, *, is_archive: bool, yes: bool) -> None:
    from hubspot_sync.forgetting import forget_by_hand
    from sqlalchemy_outbox.enqueueing.forgetting import ErasureWay
    from sqlalchemy_outbox.enqueueing.marks import NotForgotten

    way = ErasureWay.ARCHIVE if is_archive else ErasureWay.ERASE
    if not yes:
        what = "archived in HubSpot" if is_archive else "deleted in HubSpot for good, and its address refused there"
        console.print(f"{subject} would be forgotten here, and the contact {what}. Add --yes to do it.")
        return
    try:
        event_id = forget_by_hand(integration, subject, reason=reason, way=way, by=operator())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="SUBJECT") from None
    except NotForgotten as error:
        raise fail(str(error)) from error
    console.print(f"Forgotten; event {event_id} erases the contact. See `forget {subject} --status`.")
    if older := operations.count_older_workers(integration.engine, integration.outbox):
        console.print(f"{counted(older, 'worker')} of an earlier release ran within the last hour.", style="yellow")
    console.print("Code of an earlier release, and processes without the key, still store events of this subject.")
    if not integration.settings.hubspot_send_live:
        console.print("HUBSPOT_SEND_LIVE=false: HubSpot's part waits until a worker sends live.", style="yellow")


def _show(integration: Integration, subject: str, *, as_json: bool) -> None:
    from hubspot_sync.forgetting import certificates_of

    found = certificates_of(integration, subject)
    if as_json:
        print_json({"erasures": [certificate.as_json() for certificate in found]})
    else:
        for certificate in found:
            _print(certificate)
    if not found and not as_json:
        raise fail("Nobody of this id was forgotten.")
    if not found or not all(certificate.is_done for certificate in found):
        raise typer.Exit(1)


def _print(certificate: Certificate) -> None:
    here = {**certificate.removed, "refused": certificate.refused}
    print_fields(
        [
            ("name", certificate.name),
            ("forgotten", f"{moment(certificate.forgotten_at)}: {certificate.reason}"),
            ("in HubSpot", _in_hubspot(certificate)),
            ("here", ", ".join(f"{name} {count}" for name, count in sorted(here.items()))),
            ("done", moment(certificate.cleaned_at) if certificate.is_done else "not yet"),
        ]
    )


def _in_hubspot(certificate: Certificate) -> str:
    if certificate.erased_at is None:
        return in_one_line(certificate.objection or "waits for a worker")
    requests = certificate.told.get("requests")
    answers = [
        f"{request.get('status')} (correlation id {request.get('correlation_id') or 'none'})"
        for request in (requests if isinstance(requests, list) else [])
    ]
    number = certificate.told.get("contacts")
    noun = "contact" if number == 1 else "contacts"
    contacts = f"{number} {noun} by {certificate.way}, {moment(certificate.erased_at)}"
    return ": ".join([contacts, ", ".join(answers)]) if answers else contacts
