"""What Prometheus scrapes, with the operator's token. Without one in the settings there is nothing here."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from app.dependencies import RunningApp
from app.problems import NotAuthenticated, Problem

router = APIRouter(include_in_schema=False)

_bearer = HTTPBearer(auto_error=False)


class TooManyGuesses(Problem):
    """Too many wrong tokens came from there; wait for `Retry-After` seconds."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    kind = "too-many-guesses"
    title = "Too many wrong tokens"


async def _require_metrics(running: RunningApp) -> None:
    # As for a path that does not exist, whatever the request brings.
    if running.door.objection is not None:
        raise HTTPException(HTTPStatus.NOT_FOUND)


async def _require_operator(
    request: Request,
    running: RunningApp,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """What opens the page too is guessed at no faster here."""
    if credentials is not None:
        address = request.client.host if request.client else ""
        if seconds := running.door.seconds_locked(address):
            raise TooManyGuesses(
                f"Too many wrong tokens. Try again in {seconds} s.", headers={"Retry-After": str(seconds)}
            )
        if running.door.admits(credentials.credentials, address):
            return
    raise NotAuthenticated("Send OPERATOR_TOKEN as `Authorization: Bearer …`.")


@router.get("/metrics", dependencies=[Depends(_require_metrics), Depends(_require_operator)])
def metrics(running: RunningApp, accept: Annotated[str, Header()] = "") -> Response:
    content, media_type = running.metrics.text(accept)
    return Response(content, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
