"""Retry and discard: a preview that names the number of events, then a job whose progress can be watched."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from hubspot_sync.moves import claimed_types
from hubspot_sync.page.context import PageContext
from hubspot_sync.page.forms import Form
from hubspot_sync.page.jobs import Job, TooManyJobs
from hubspot_sync.page.masks import masked_addresses
from hubspot_sync.page.rendering import query_number
from hubspot_sync.page.selection import fields_of, in_words, selection_of
from hubspot_sync.page.sign_in import session_of
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import State
from sqlalchemy_outbox.operations import EventFilter, EventSummary, Progress, Selection

EXAMPLES_SHOWN = 10
# A few events are done before the next page is.
SHORT_JOB_SECONDS = 0.5
_KEY = re.compile(r"[\w-]{16,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Verb:
    """What the pages say of a verb: `name` for the button, `past` for what was done."""

    name: str
    past: str


RETRY, DISCARD = Verb("retry", "retried"), Verb("discard", "discarded")
VERBS = {verb.name: verb for verb in (RETRY, DISCARD)}


class Actions:
    def __init__(self, context: PageContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/retry", partial(self._preview, verb=RETRY), methods=["GET"]),
            Route("/discard", partial(self._preview, verb=DISCARD), methods=["GET"]),
            self._context.action("/retry", self.retry),
            self._context.action("/discard", self.discard),
            Route("/jobs/{key}", self.show_job, methods=["GET"]),
        ]

    def _preview(self, request: Request, verb: Verb) -> Response:
        selection = selection_of(Form.of(request.url.query))
        count = self._count(verb, selection)
        examples = self._examples(selection) if count else []
        return self._context.show(
            request,
            "preview.html",
            verb=verb,
            count=count,
            left_alone=self._count(DISCARD, selection) - count,
            words=in_words(selection),
            fields=fields_of(selection),
            examples=examples,
            masked=masked_addresses(self._context, examples),
            is_of_one_reason=isinstance(selection, EventFilter) and selection.reason is not None,
            key=secrets.token_urlsafe(18),
        )

    def retry(self, request: Request, form: Form) -> Response:
        context, selection, by = self._context, selection_of(form), session_of(request).by
        is_cautious = bool(form.text("cautious"))
        retry = partial(operations.retry, by=by, is_cautious=is_cautious)
        run = partial(retry, context.engine, context.outbox, selection, claimed_types(context.catalog))
        return self._start(request, form, RETRY, selection, run)

    def discard(self, request: Request, form: Form) -> Response:
        context, selection, by = self._context, selection_of(form), session_of(request).by
        reason = form.text("reason_to_discard", 300)
        if not reason:
            raise HTTPException(422, "Say why they are discarded: it is kept with them.")
        run = partial(operations.discard, context.engine, context.outbox, selection, by=by, reason=reason)
        return self._start(request, form, DISCARD, selection, run)

    def show_job(self, request: Request) -> Response:
        """A job of this process by its progress; one of another process by what is left to do."""
        verb = VERBS.get(request.query_params.get("verb", ""))
        if verb is None:
            raise HTTPException(404)
        selection = selection_of(Form.of(request.url.query))
        job = self._context.jobs.find(request.path_params["key"])
        return self._context.show(
            request,
            "job.html",
            verb=verb,
            job=job,
            total=query_number(request, "total") or 0,
            left=self._count(verb, selection) if job is None else 0,
            words=in_words(selection),
            fields=fields_of(selection),
            address=f"{request.url.path}?{request.url.query}",
        )

    def _start(
        self, request: Request, form: Form, verb: Verb, selection: Selection, run: Callable[[], Iterator[Progress]]
    ) -> Response:
        key = form.text("key")
        if not _KEY.fullmatch(key):
            raise HTTPException(400, "Go back to the preview, and press its button.")
        total = self._count(verb, selection)
        try:
            job = self._context.jobs.start(Job(key, verb.name, session_of(request).by, total), run)
        except TooManyJobs as error:
            raise HTTPException(503, "Too many jobs run. Wait for one to end.", {"Retry-After": "10"}) from error
        job.ended.wait(SHORT_JOB_SECONDS)
        query = urlencode([("verb", verb.name), ("total", str(job.total)), *fields_of(selection)])
        return RedirectResponse(self._context.place(request, f"/jobs/{key}?{query}"), 303)

    def _count(self, verb: Verb, selection: Selection) -> int:
        types = claimed_types(self._context.catalog) if verb is RETRY else None
        return operations.count(self._context.engine, self._context.outbox, selection, types)

    def _examples(self, selection: Selection) -> list[EventSummary]:
        context = self._context
        if isinstance(selection, EventFilter):
            failed = replace(selection, state=State.FAILED)
            return operations.find_events(context.engine, context.outbox, failed, limit=EXAMPLES_SHOWN)
        events = operations.read_events(context.engine, context.outbox, selection.ids)
        return [event for event in events if event.state is State.FAILED][:EXAMPLES_SHOWN]
