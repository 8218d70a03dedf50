"""What Prometheus scrapes, with the operator's token. Without one in the settings there is nothing here."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from app.dependencies import RunningApp, is_same
from app.problems import NotAuthenticated

router = APIRouter(include_in_schema=False)

_bearer = HTTPBearer(auto_error=False)


async def _require_metrics(running: RunningApp) -> None:
    # As for a path that does not exist, whatever the request brings.
    if not running.settings.operator_token.get_secret_value():
        raise HTTPException(HTTPStatus.NOT_FOUND)


async def _require_operator(
    running: RunningApp, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    if credentials is None or not is_same(credentials.credentials, running.settings.operator_token):
        raise NotAuthenticated("Send OPERATOR_TOKEN as `Authorization: Bearer …`.")


@router.get("/metrics", dependencies=[Depends(_require_metrics), Depends(_require_operator)])
def metrics(running: RunningApp, accept: Annotated[str, Header()] = "") -> Response:
    content, media_type = running.metrics.text(accept)
    return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
