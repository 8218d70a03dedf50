"""A subject's contact: its events in order, what we last sent of it, what HubSpot has, and where they differ."""

from __future__ import annotations

import time
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from hubspot_sync.contact import EVENTS_MAX, ContactView, HubSpotContact, look_at_contact
from hubspot_sync.page.context import PageContext
from hubspot_sync.page.forms import Form
from hubspot_sync.page.masks import masked_addresses
from hubspot_sync.page.sign_in import session_of
from hubspot_sync.resync import EventsLost, Resync
from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox import operations

_SUBJECT_LENGTH_MAX = 500
QUEUE_SHOWN = 20
# Where HubSpot's own page of a contact is; the sandbox has none.
_HUBSPOT = "https://api.hubapi.com"
_RECORD_PAGE = "https://app.hubspot.com/contacts/{portal_id}/record/0-1/{record_id}"


class Contacts:
    def __init__(self, context: PageContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/contact", self.show, methods=["GET"]),
            Route("/contact/comparison", self.compare, methods=["GET"]),
            self._context.action("/contact/reveal", self.reveal),
            self._context.action("/contact/resync", self.resync),
        ]

    def show(self, request: Request) -> Response:
        """At once, without HubSpot; the page then asks for the comparison."""
        return self._show(request, None)

    async def compare(self, request: Request) -> Response:
        """The same page with what HubSpot has now."""
        view = await look_at_contact(self._context.integration, _subject(request))
        return await run_in_threadpool(self._show, request, view)

    def reveal(self, request: Request, form: Form) -> Response:
        context, session, subject = self._context, session_of(request), form.text("subject", _SUBJECT_LENGTH_MAX)
        operations.reveal(context.engine, context.outbox, subject, by=session.by)
        return self._back(request, subject, reveal=context.seal.reveal(session, subject, time.time()))

    def resync(self, request: Request, form: Form) -> Response:
        """Send anew how the application's tables say the subject stands."""
        context, integration = self._context, self._context.integration
        subject = form.text("subject", _SUBJECT_LENGTH_MAX)
        if integration.present_state is None:
            raise HTTPException(404, "This application does not say how its subjects stand.")
        resync = Resync(
            context.engine, context.outbox, context.catalog, integration.present_state, by=session_of(request).by
        )
        try:
            [progress] = resync.these([subject])
        except EventsLost as error:
            raise HTTPException(503, str(error)) from error
        if progress.unknown:
            raise HTTPException(404, f"The application knows no {subject}, so there is nothing to send.")
        return self._back(request, subject)

    def _show(self, request: Request, view: ContactView | None) -> Response:
        context, subject = self._context, _subject(request)
        reveal = request.query_params.get("reveal", "")
        is_revealed = context.seal.reveals(session_of(request), subject, reveal, time.time())
        if view is not None and not is_revealed:
            view = view.redacted()
        query = {"subject": subject} | ({"reveal": reveal} if is_revealed else {})
        events = operations.events_of(context.engine, context.outbox, subject, limit=EVENTS_MAX)
        return context.show(
            request,
            "contact.html",
            subject=subject,
            is_revealed=is_revealed,
            query=urlencode(query),
            events=events,
            queue=operations.read_queue(context.engine, context.outbox, subject, limit=QUEUE_SHOWN),
            queue_shown_max=QUEUE_SHOWN,
            masked=masked_addresses(context, events),
            events_shown_max=EVENTS_MAX,
            view=view,
            values=[value for value in view.values if value.sent is not None or value.found is not None]
            if view
            else [],
            record_page=_record_page(context.integration.settings, view.contact) if view else "",
            can_resync=context.integration.present_state is not None,
        )

    def _back(self, request: Request, subject: str, **query: str) -> Response:
        place = f"/contact?{urlencode({'subject': subject, **query})}"
        return RedirectResponse(self._context.place(request, place), 303)


def _subject(request: Request) -> str:
    subject = Form.of(request.url.query).text("subject", _SUBJECT_LENGTH_MAX)
    if not subject:
        raise HTTPException(400, "Say whose contact it is about: ?subject=…")
    return subject


def _record_page(settings: HubSpotSettings, contact: HubSpotContact) -> str:
    """HubSpot's own page of the contact; empty where there is none."""
    is_real = settings.hubspot_base_url.rstrip("/") == _HUBSPOT
    if not is_real or contact.record_id is None or not (contact.record_id.isascii() and contact.record_id.isdigit()):
        return ""
    return _RECORD_PAGE.format(portal_id=settings.hubspot_portal_id.strip(), record_id=contact.record_id)
