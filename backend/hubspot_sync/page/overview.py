"""The first view: figures as they move, why events have failed, and the gate's handle."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from hubspot_sync.page.context import PageContext
from hubspot_sync.page.forms import Form
from hubspot_sync.page.notices import mark_of
from hubspot_sync.page.rendering import query_number
from hubspot_sync.page.sessions import SESSION_LENGTH, Session
from hubspot_sync.page.sign_in import session_of, signed_out
from hubspot_sync.page.snapshots import SAMPLES_KEPT, Sample, TooManyWatch
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.operations import Range

AUDIT_SHOWN = 50
# Seconds since 1970, as the stream gave them.
_EVENT_ID = re.compile(r"\d{1,12}(\.\d{1,9})?", re.ASCII)


class Overview:
    def __init__(self, context: PageContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/", self.show, methods=["GET"]),
            Route("/stream", self.stream, methods=["GET"]),
            Route("/look-up", self.look_up, methods=["GET"]),
            Route("/audit", self.audit, methods=["GET"]),
            self._context.action("/hold", self.hold),
            self._context.action("/release", self.release),
            self._context.action("/try-now", self.try_now),
            Route("/series", self.series, methods=["GET"]),
            self._context.form("/sign-out", self.sign_out),
            self._context.action("/end-sessions", self.end_sessions),
        ]

    def show(self, request: Request) -> Response:
        context = self._context
        return context.show(
            request,
            "overview.html",
            reasons=operations.failure_reasons(context.engine, context.outbox),
            ranges=list(Range),
            range=_range(request),
        )

    def series(self, request: Request) -> Response:
        """What the charts are made of."""
        series = operations.read_series(self._context.engine, self._context.outbox, _range(request))
        return JSONResponse(series.as_json())

    def look_up(self, request: Request) -> Response:
        """What a person typed leads to an event if it is the id of one, else to the contact of that subject."""
        text = Form.of(request.url.query).text("what", 500)
        place = f"/contact?{urlencode({'subject': text})}" if text else "/"
        with suppress(ValueError):
            event_id = UUID(text)
            if operations.read_history(self._context.engine, self._context.outbox, event_id) is not None:
                place = f"/events/{event_id}"
        return RedirectResponse(self._context.place(request, place), 303)

    def audit(self, request: Request) -> Response:
        before = query_number(request, "before")
        entries = operations.read_audit(
            self._context.engine, self._context.outbox, before=before, limit=AUDIT_SHOWN + 1
        )
        return self._context.show(
            request,
            "audit.html",
            entries=entries[:AUDIT_SHOWN],
            older_before=entries[AUDIT_SHOWN - 1].id if len(entries) > AUDIT_SHOWN else None,
            is_newest=before is None,
        )

    def hold(self, request: Request, form: Form) -> Response:
        reason = form.text("reason", 300)
        if not reason:
            raise HTTPException(422, "Say why deliveries are to be held: whoever finds them so reads it.")
        operations.hold(self._context.engine, self._context.outbox, reason, by=session_of(request).by)
        return RedirectResponse(self._context.place(request, "/"), 303)

    def release(self, request: Request, _form: Form) -> Response:
        operations.release(self._context.engine, self._context.outbox, by=session_of(request).by)
        return RedirectResponse(self._context.place(request, "/"), 303)

    def try_now(self, request: Request, _form: Form) -> Response:
        operations.try_now(self._context.engine, self._context.outbox, by=session_of(request).by)
        return RedirectResponse(self._context.place(request, "/"), 303)

    def sign_out(self, request: Request, _form: Form) -> Response:
        """Ended for every process: a cookie that was copied before opens nothing either."""
        session = session_of(request)
        ends_at = datetime.fromtimestamp(session.ends_at, UTC)
        operations.end_session(self._context.engine, self._context.outbox, session.id, ends_at, by=session.by)
        return signed_out(request)

    def end_sessions(self, request: Request, _form: Form) -> Response:
        """Everybody's, this one among them, in every process; who knows a token signs in again."""
        session = session_of(request)
        ends_at = datetime.fromtimestamp(time.time() + SESSION_LENGTH.total_seconds(), UTC)
        operations.end_all_sessions(self._context.engine, self._context.outbox, ends_at, by=session.by)
        return signed_out(request)

    async def stream(self, request: Request) -> Response:
        """Server-sent events: `samples`, once a second, and `over` when the session is."""
        last_id = request.headers.get("last-event-id", "")
        after = float(last_id) if _EVENT_ID.fullmatch(last_id) else 0.0
        now = time.time()
        # None is from the future, whatever the browser says or the clock was before it was set.
        samples = self._context.snapshots.watch(min(max(after, now - SAMPLES_KEPT), now))
        try:
            first = await anext(samples)
        except TooManyWatch as error:
            raise HTTPException(503, "Too many watch already.", {"Retry-After": "30"}) from error
        except StopAsyncIteration:
            raise HTTPException(503, "The application is stopping.", {"Retry-After": "5"}) from None
        return StreamingResponse(
            self._events(first, samples, session_of(request)),
            media_type="text/event-stream",
            # A proxy in front that gathers an answer before it passes it on would never pass this one on.
            headers={"X-Accel-Buffering": "no"},
        )

    async def _events(
        self, first: list[Sample], later: AsyncGenerator[list[Sample]], session: Session
    ) -> AsyncIterator[str]:
        async with aclosing(later):
            yield f"retry: 1000\n{self._as_event(first)}"
            async for samples in later:
                if time.time() >= session.ends_at or await self._is_ended(session):
                    yield "event: over\ndata:\n\n"
                    return
                yield self._as_event(samples)

    async def _is_ended(self, session: Session) -> bool:
        """One look by key a second, so that a stream ends with its session, in whatever process that was ended."""
        # Without a database there is nothing to be shown either.
        with suppress(DBAPIError, PoolTimeout):
            return await run_in_threadpool(self._context.is_ended, session)
        return False

    def _as_event(self, samples: list[Sample]) -> str:
        snapshot = samples[-1].snapshot
        mark = mark_of(self._context.notices(snapshot)) if snapshot is not None else None
        data = json.dumps({"samples": [_as_json(sample) for sample in samples], "notices": mark})
        return f"event: samples\nid: {samples[-1].at}\ndata: {data}\n\n"


def _range(request: Request) -> Range:
    text = request.query_params.get("range", Range.DAY)
    if text not in set(Range):
        raise HTTPException(400, "There is no such range.")
    return Range(text)


def _as_json(sample: Sample) -> dict[str, float | None]:
    if (snapshot := sample.snapshot) is None:
        return {"at": sample.at, "pending": None, "delivered": None, "lag": None, "requests": None, "failed": None}
    return {
        "at": sample.at,
        "pending": snapshot.pending + snapshot.claimed,
        "delivered": snapshot.delivered_last_minute,
        "lag": snapshot.oldest_pending_seconds or 0.0,
        "requests": round(snapshot.requests_last_minute / 60, 2),
        "failed": snapshot.failed,
    }
