"""Events: the list, with filters and page by page, and all that is known of one."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from hubspot_sync.inspection import inspect
from hubspot_sync.moves import claimed_types
from hubspot_sync.page.context import PageContext
from hubspot_sync.page.export import FORMATS, lines_of
from hubspot_sync.page.forms import Form
from hubspot_sync.page.masks import masked_address, masked_addresses
from hubspot_sync.page.rendering import query_number
from hubspot_sync.page.selection import AGES, fields_of, filter_of
from hubspot_sync.page.sign_in import session_of
from hubspot_sync.timeline import steps_of
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import State
from sqlalchemy_outbox.operations import History

EVENTS_SHOWN = 50


class Events:
    def __init__(self, context: PageContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/events", self.show_list, methods=["GET"]),
            Route("/events.{format:str}", self.export, methods=["GET"]),
            Route("/events/{event_id:uuid}", self.show, methods=["GET"]),
            self._context.action("/events/{event_id:uuid}/reveal", self.reveal),
        ]

    def show_list(self, request: Request) -> Response:
        context = self._context
        asked = filter_of(Form.of(request.url.query))
        before = query_number(request, "before")
        found = operations.find_events(context.engine, context.outbox, asked, before=before, limit=EVENTS_SHOWN + 1)
        events = found[:EVENTS_SHOWN]
        query = urlencode(fields_of(asked))
        return context.show(
            request,
            "events.html",
            events=events,
            found=operations.count_found(context.engine, context.outbox, asked),
            masked=masked_addresses(context, events),
            asked=asked,
            asked_fields=dict(fields_of(asked)),
            query=query,
            older_before=events[-1].id if len(found) > EVENTS_SHOWN else None,
            is_newest=before is None,
            failed_query=urlencode([*fields_of(asked), *([] if asked.state else [("state", State.FAILED.value)])]),
            states=list(State),
            types=claimed_types(context.catalog),
            ages={key: words for key, (words, _) in AGES.items()},
        )

    def export(self, request: Request) -> Response:
        """The whole filter as a file, with its newest events up to `operations.EXPORT_BATCHES`."""
        format_ = FORMATS.get(request.path_params["format"])
        if format_ is None:
            raise HTTPException(404)
        asked = filter_of(Form.of(request.url.query))
        batches = operations.export_events(self._context.engine, self._context.outbox, asked)
        name = f"events-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.{format_.name}"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(lines_of(batches, format_), media_type=format_.media_type, headers=headers)

    def show(self, request: Request) -> Response:
        context, history = self._context, self._history(request)
        reveal = request.query_params.get("reveal", "")
        is_revealed = context.seal.reveals(session_of(request), history.event.subject, reveal, time.time())
        newer = operations.read_newer(context.engine, context.outbox, history.event)
        inspection = inspect(history, newer, context.catalog, is_revealed=is_revealed)
        return context.show(
            request,
            "event.html",
            history=history,
            steps=steps_of(history),
            is_known=history.event.event_type in claimed_types(context.catalog),
            masked=masked_address(history.event.payload, context.catalog.email_field),
            is_revealed=is_revealed,
            payload=_pretty(inspection.payload),
            request_now="" if inspection.request is None else _pretty(inspection.request),
            no_request=inspection.objection,
        )

    def reveal(self, request: Request, _form: Form) -> Response:
        context, history = self._context, self._history(request)
        subject, session = history.event.subject, session_of(request)
        operations.reveal(context.engine, context.outbox, subject, by=session.by)
        query = urlencode({"reveal": context.seal.reveal(session, subject, time.time())})
        return RedirectResponse(context.place(request, f"/events/{history.event.event_id}?{query}"), 303)

    def _history(self, request: Request) -> History:
        event_id: UUID = request.path_params["event_id"]
        history = operations.read_history(self._context.engine, self._context.outbox, event_id)
        if history is None:
            raise HTTPException(404, f"There is no event {event_id}; delivered ones are purged after a while.")
        return history


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
