"""The application: `uvicorn app.main:app`, or `create_app` with settings and a sender of one's own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypedDict

from fastapi import Depends, FastAPI

from app.database import create_sessions
from app.dependencies import Running, keep_nowhere
from app.integration import integrate
from app.logs import configure_nerava_logging
from app.otp import SendCode, log_code
from app.problems import ProblemBody, answer_with_problems
from app.routers import auth, driver, health, nova, wallet
from app.settings import OPERATOR_PAGE, Settings
from app.wrong_keys import WrongKeys
from hubspot_sync import AsgiIntegration

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
    hubspot = AsgiIntegration(lambda: integrate(settings or Settings()))
    app = Nerava(
        title="Nerava",
        summary="Rewards for charging an electric car.",
        description="Errors are problem responses (RFC 9457): `type` names the kind, `detail` says what to do.",
        version="0.1.0",
        lifespan=_lifespan(hubspot, send_code),
    )
    answer_with_problems(app)
    for room in (auth, driver, wallet, nova, health):
        app.include_router(room.router, dependencies=[Depends(keep_nowhere)])
    app.add_route("/metrics", hubspot.metrics)
    app.mount(OPERATOR_PAGE, hubspot.page)
    return app


def _lifespan(
    hubspot: AsgiIntegration, send_code: SendCode
) -> Callable[[FastAPI], AbstractAsyncContextManager[_State]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[_State]:
        configure_nerava_logging()
        async with hubspot.serving() as serving:
            settings = serving.integration.settings
            assert isinstance(settings, Settings)
            _warn_of_open_doors(settings, send_code)
            sessions = create_sessions(serving.integration.engine)
            yield {"running": Running(settings, sessions, serving, send_code, WrongKeys())}

    return lifespan


def _warn_of_open_doors(settings: Settings, send_code: SendCode) -> None:
    if send_code is log_code:
        log.warning("One-time codes are written to this log; pass create_app(send_code=...) where others can read it.")
    if not settings.charger_service_key.get_secret_value():
        log.warning("CHARGER_SERVICE_KEY is empty; set it, or every grant of Nova is refused with 401.")


app = create_app()
