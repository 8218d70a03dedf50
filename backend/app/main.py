"""The application: `uvicorn app.main:app`, or `create_app` with settings and a sender of one's own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypedDict

from fastapi import Depends, FastAPI

from app.database import create_database_engine, create_listen_engine, create_sessions
from app.dependencies import Running, keep_nowhere
from app.events import CATALOG
from app.logs import configure_logging
from app.models import OUTBOX
from app.otp import SendCode, log_code
from app.present_state import PRESENT_STATE
from app.problems import ProblemBody, answer_with_problems
from app.routers import auth, health, metrics, nova, wallet
from app.settings import OPERATOR_PAGE, Settings
from app.wrong_keys import WrongKeys
from hubspot_sync.integration import Integration
from hubspot_sync.page import Door, OperatorPage
from hubspot_sync.runtime import WorkerHost
from hubspot_sync.telemetry import Exposition

log = logging.getLogger(__name__)


class Nerava(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's description, with the problem responses' own media type in it."""
        if self.openapi_schema is None:
            schemas = super().openapi().setdefault("components", {}).setdefault("schemas", {})
            problem = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs") | {"ProblemBody": problem}
        assert self.openapi_schema is not None
        return self.openapi_schema


class _State(TypedDict):
    running: Running


def create_app(settings: Settings | None = None, send_code: SendCode = log_code) -> FastAPI:
    """Nerava with its worker. Settings that are not given are read when the application starts, not before."""
    page = OperatorPage()
    app = Nerava(
        title="Nerava",
        summary="Rewards for charging an electric car.",
        description="Errors are problem responses (RFC 9457): `type` names the kind, `detail` says what to do.",
        version="0.1.0",
        lifespan=_lifespan(settings, send_code, page),
    )
    answer_with_problems(app)
    for room in (auth, wallet, nova, health, metrics):
        app.include_router(room.router, dependencies=[Depends(keep_nowhere)])
    app.mount(OPERATOR_PAGE, page)
    return app


def _lifespan(
    settings: Settings | None, send_code: SendCode, page: OperatorPage
) -> Callable[[FastAPI], AbstractAsyncContextManager[_State]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[_State]:
        configure_logging()
        in_force = settings or Settings()
        _warn_of_open_doors(in_force, send_code)
        engine = create_database_engine(in_force.database_url, in_force.database_pooler)
        listen_engine = create_listen_engine(in_force.database_listen_url)
        integration = Integration(
            in_force,
            OUTBOX,
            CATALOG,
            engine,
            present_state=PRESENT_STATE,
            listen_engine=listen_engine,
            version=in_force.release,
        )
        worker = WorkerHost(integration)
        try:
            await worker.start()
            metrics = Exposition(engine, OUTBOX)
            door = Door(in_force.operator_token, in_force.reader_token)
            async with page.serving(integration, door, lambda: worker.status):
                running = Running(
                    in_force, engine, create_sessions(engine), worker, metrics, door, send_code, WrongKeys()
                )
                yield {"running": running}
        finally:
            await worker.stop()
            engine.dispose()

    return lifespan


def _warn_of_open_doors(settings: Settings, send_code: SendCode) -> None:
    if send_code is log_code:
        log.warning("One-time codes are written to this log; pass create_app(send_code=...) where others can read it.")
    if not settings.charger_service_key.get_secret_value():
        log.warning("CHARGER_SERVICE_KEY is empty; set it, or every grant of Nova is refused with 401.")


app = create_app()
