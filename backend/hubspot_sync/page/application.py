"""The page as an ASGI application, to be mounted by the one whose events it shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from hubspot_sync.integration import Integration
from hubspot_sync.page.account import AccountViews
from hubspot_sync.page.actions import Actions
from hubspot_sync.page.contacts import Contacts
from hubspot_sync.page.context import PageContext
from hubspot_sync.page.door import Door
from hubspot_sync.page.erasures import Erasures
from hubspot_sync.page.events import Events
from hubspot_sync.page.forms import BODY_BYTES_MAX
from hubspot_sync.page.guard import Guard
from hubspot_sync.page.jobs import Jobs
from hubspot_sync.page.overview import Overview
from hubspot_sync.page.rendering import Static, Templates
from hubspot_sync.page.sessions import Seal
from hubspot_sync.page.sign_in import SignedIn, SignIn
from hubspot_sync.page.snapshots import Snapshots
from hubspot_sync.page.workers import Workers
from hubspot_sync.runtime import WorkerStatus
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.delivering.retrying import ask_or_advise

log = logging.getLogger(__name__)


class OperatorPage:
    """Closed until `serving` opens it; mount it once, under a path of its own."""

    def __init__(self) -> None:
        self._templates = Templates()
        self._app = self._closed("The application has not started.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def serving(
        self, integration: Integration, door: Door, worker: Callable[[], WorkerStatus]
    ) -> AsyncIterator[None]:
        """Meanwhile the page is open to who knows the token; without a token that is hard to guess it stays closed."""
        if door.objection is not None:
            log.info("The operator's page is closed: %s", door.objection)
            self._app = self._closed(door.objection)
            yield
            return
        context = PageContext(
            integration,
            worker,
            seal=Seal(door.token, door.reader_token),
            templates=self._templates,
            snapshots=Snapshots(lambda: operations.snapshot(integration.engine, integration.outbox)),
            jobs=Jobs(),
        )
        self._app = _open(context, door)
        try:
            yield
        finally:
            self._app = self._closed("The application is stopping.")
            await context.snapshots.close()
            await asyncio.to_thread(context.jobs.stop)

    def _closed(self, words: str) -> ASGIApp:
        """Not found, for whoever looks around; a person who was sent here reads why."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            page = self._templates.page(Request(scope), "closed.html", 404, words=words)
            await page(scope, receive, send)

        return Guard(Starlette(routes=[Mount("/static", Static()), Mount("/", answer)]))


def _open(context: PageContext, door: Door) -> ASGIApp:
    views = (
        Overview(context),
        Events(context),
        Contacts(context),
        Erasures(context),
        Workers(context),
        AccountViews(context),
        Actions(context),
    )
    signed_in = [route for view in views for route in view.routes()]
    behind = Middleware(SignedIn, context.seal, context.templates, context.is_ended)
    return Guard(
        Starlette(
            routes=[
                Mount("/static", Static()),
                *SignIn(door, context.seal, context.templates).routes(),
                Mount("/", routes=signed_in, middleware=[behind]),
            ],
            exception_handlers={
                HTTPException: _on_http_exception(context),
                DBAPIError: _on_database_error(context),
                PoolTimeout: _on_database_error(context),
            },
            max_body_size=BODY_BYTES_MAX,
        )
    )


def _on_http_exception(context: PageContext) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        page = context.templates.page(request, "error.html", error.status_code, words=error.detail)
        page.headers.update(error.headers or {})
        return page

    return answer


def _on_database_error(context: PageContext) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        log.warning("The operator's page has no database: %s", str(error).partition("\n")[0])
        words = f"The database does not serve the outbox.{ask_or_advise(error)}"
        return context.templates.page(request, "error.html", 503, words=words)

    return answer
