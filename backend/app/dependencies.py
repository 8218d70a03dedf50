"""What routes are handed: the parts of the running application, and the credentials of the request."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from app.otp import SendCode
from app.problems import NotAuthenticated, Problem
from app.settings import Settings
from app.wrong_keys import WrongKeys
from hubspot_sync import Serving


@dataclass(frozen=True, slots=True)
class Running:
    """The parts that live from the application's start to its stop."""

    settings: Settings
    sessions: sessionmaker[Session]
    hubspot: Serving
    send_code: SendCode
    wrong_keys: WrongKeys


async def _running(request: Request) -> Running:
    running: Running = request.state.running
    return running


RunningApp = Annotated[Running, Depends(_running)]


async def _sessions(running: RunningApp) -> sessionmaker[Session]:
    return running.sessions


# Routes open their own transaction: one opened by a dependency would commit after the answer has left.
Sessions = Annotated[sessionmaker[Session], Depends(_sessions)]

_bearer = HTTPBearer(
    auto_error=False, scheme_name="driver", description="The access token that `POST /v1/auth/otp/verify` gave."
)
_service_key = APIKeyHeader(
    name="X-Service-Key",
    auto_error=False,
    scheme_name="charger",
    description="The key of the charging network, CHARGER_SERVICE_KEY.",
)


async def _bearer_token(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    if credentials is None:
        raise NotAuthenticated("Send the driver's access token as `Authorization: Bearer …`.")
    return credentials.credentials


BearerToken = Annotated[str, Depends(_bearer_token)]


async def keep_nowhere(response: Response) -> None:
    """Answers hold tokens, balances and addresses; nobody on the way to a client is to keep them."""
    response.headers["Cache-Control"] = "no-store"


class TooManyWrongKeys(Problem):
    """Too many wrong keys came from there; wait for `Retry-After` seconds."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    kind = "too-many-wrong-keys"
    title = "Too many wrong keys"


async def require_service_key(
    request: Request, running: RunningApp, key: Annotated[str | None, Depends(_service_key)]
) -> None:
    """Between the look at the lock and the verdict nothing is awaited: guesses sent at once are counted one by one."""
    if key:
        address = request.client.host if request.client else ""
        if seconds := running.wrong_keys.seconds_locked(address):
            detail = f"Too many wrong keys. Try again in {seconds} s."
            raise TooManyWrongKeys(detail, headers={"Retry-After": str(seconds)})
        if is_same(key, running.settings.charger_service_key):
            running.wrong_keys.note_right(address)
            return
        running.wrong_keys.note_wrong(address)
    raise NotAuthenticated("Send the charging network's key as `X-Service-Key`.", scheme="APIKey")


def is_same(given: str, expected: SecretStr) -> bool:
    """Whether the secret is the expected one, found out in a time that tells nothing of it. An empty one never is."""
    text = expected.get_secret_value()
    return bool(text) and hmac.compare_digest(given.encode(), text.encode())
