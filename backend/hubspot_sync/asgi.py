"""An integration inside an ASGI application: its worker from start to stop, and what is mounted of it.

hubspot = AsgiIntegration(load_integration)
app = FastAPI(lifespan=hubspot.lifespan)
app.mount("/ops/hubspot", hubspot)

/ops/hubspot/         the operator's page, for who knows OPERATOR_TOKEN
/ops/hubspot/metrics  what Prometheus reads, with OPERATOR_TOKEN as the bearer token
/ops/hubspot/health   200 while the database serves the outbox; says how gate and worker are
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from hubspot_sync.health import read_health
from hubspot_sync.integration import Integration
from hubspot_sync.page import Door, OperatorPage
from hubspot_sync.runtime import WorkerHost
from hubspot_sync.telemetry import Exposition

log = logging.getLogger(__name__)

_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Serving:
    """What lives from the application's start to its stop."""

    integration: Integration
    worker: WorkerHost
    exposition: Exposition
    door: Door


class AsgiIntegration:
    """The lifespan and the ASGI application of an integration.

    `load` makes the integration when the application starts, and not before; its engines are disposed of when it stops.
    Events can be tracked without it: they wait for a worker. `page` alone can be mounted too.
    """

    def __init__(self, load: Callable[[], Integration]) -> None:
        self._load = load
        self._serving: Serving | None = None
        self.page = OperatorPage()
        self._app = Starlette(
            routes=[Route("/metrics", self.metrics), Route("/health", self.health), Mount("/", self.page)]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """For `FastAPI(lifespan=…)` and `Starlette(lifespan=…)`; within a lifespan of your own, enter `serving`."""
        async with self.serving():
            yield

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Serving]:
        """Meanwhile the worker runs, or one line of the log says why not, and what is mounted answers."""
        integration = self._load()
        worker = WorkerHost(integration)
        door = Door(integration.settings.operator_token, integration.settings.reader_token)
        serving = Serving(integration, worker, Exposition(integration.engine, integration.outbox), door)
        try:
            await worker.start()
            async with self.page.serving(integration, door, lambda: worker.status):
                self._serving = serving
                yield serving
        finally:
            self._serving = None
            await worker.stop()
            integration.dispose()

    async def metrics(self, request: Request) -> Response:
        """What Prometheus reads. Without a token in the settings, as a path that does not exist.

        What opens the page too is guessed at no faster here, and between the look at the lock and the verdict nothing
        is awaited.
        """
        if (serving := self._serving) is None or serving.door.objection is not None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        if (refusal := _refusal(serving.door, request)) is not None:
            return refusal
        accept = request.headers.get("accept", "")
        content, media_type = await run_in_threadpool(serving.exposition.text, accept)
        return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    async def health(self, _request: Request) -> Response:
        """503 while the database does not serve the outbox or lacks a migration. HubSpot's trouble is no reason."""
        if (serving := self._serving) is None:
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "The application has not started.")
        try:
            health = await run_in_threadpool(read_health, serving.integration)
        except (DBAPIError, PoolTimeout) as error:
            log.warning("The outbox's health could not be read: %s", str(error).partition("\n")[0])
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, "The database does not serve the outbox.")
        if health.missing is not None:
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, health.missing)
        told = {"status": "ready", "worker": serving.worker.status.as_json(), **health.as_json()}
        return JSONResponse(told, headers={"Cache-Control": "no-store"})


def _refusal(door: Door, request: Request) -> Response | None:
    scheme_and_token = request.headers.get("authorization", "")
    if scheme_and_token.lower().startswith(_BEARER):
        address = request.client.host if request.client else ""
        if seconds := door.seconds_locked(address):
            detail = f"Too many wrong tokens. Try again in {seconds} s."
            return _problem(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(seconds)})
        if door.admits(scheme_and_token[len(_BEARER) :].strip(), address):
            return None
    detail = "Send OPERATOR_TOKEN as `Authorization: Bearer …`."
    return _problem(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})


def _problem(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """RFC 9457's form."""
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    headers = {**(headers or {}), "Cache-Control": "no-store"}
    return JSONResponse(body, status, headers, media_type="application/problem+json")
