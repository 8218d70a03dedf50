"""Signing in with the operator's token, and the door that everything else is behind."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hubspot_sync.page.door import Door
from hubspot_sync.page.forms import Form
from hubspot_sync.page.rendering import Templates
from hubspot_sync.page.roles import Role
from hubspot_sync.page.sessions import NAME_LENGTH_MAX, SESSION_LENGTH, Seal, Session

log = logging.getLogger(__name__)

COOKIE = "hubspot_operator"
# A token that somebody has typed has no more.
_TOKEN_LENGTH_MAX = 1000
# What follows the place where the page is mounted; two slashes at its beginning would name another host.
_PLACE = re.compile(r"/(?!/)[\w/?&=%+~.:@-]*", re.ASCII)


class SignIn:
    def __init__(self, door: Door, seal: Seal, templates: Templates) -> None:
        self._door = door
        self._seal = seal
        self._templates = templates

    def routes(self) -> list[Route]:
        return [
            Route("/sign-in", self.show, methods=["GET"]),
            Route("/sign-in", self.sign_in, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        return self._show(request, wanted=request.query_params.get("wanted", ""))

    async def sign_in(self, request: Request) -> Response:
        """From the form's end to the verdict nothing is awaited, so guesses sent at once are counted one by one."""
        form = await Form.read(request)
        name, token, wanted = form.text("name"), form.text("token", _TOKEN_LENGTH_MAX), form.text("wanted")
        address = request.client.host if request.client else ""
        if seconds := self._door.seconds_locked(address):
            return self._show_locked(request, seconds, name, wanted)
        if not 1 <= len(name) <= NAME_LENGTH_MAX or not name.isprintable():
            objection = f"Say who you are, in up to {NAME_LENGTH_MAX} characters: it stands beside what you do."
            return self._show(request, 422, objection, name, wanted)
        role = self._door.admits(token, address)
        if role is None:
            return self._show(request, 403, "This is not the token in OPERATOR_TOKEN.", name, wanted)
        # A reader who is forgiven as well could guess at the operator's token in between.
        if role is Role.OPERATOR:
            self._door.forgive(address)
        log.info(
            "%s %s signed in from %s.",
            role.capitalize(),
            name,
            address or "an unknown address",
            extra={"by": f"page:{name}"},
        )
        answer = RedirectResponse(_within(request, wanted), 303)
        _set_cookie(request, answer, self._seal.issue(name, time.time(), role))
        return answer

    def _show(
        self, request: Request, status: int = 200, objection: str = "", name: str = "", wanted: str = ""
    ) -> Response:
        is_readable = _is_readable_on_the_way(request)
        return self._templates.page(
            request, "sign_in.html", status, objection=objection, name=name, wanted=wanted, is_readable=is_readable
        )

    def _show_locked(self, request: Request, seconds: int, name: str, wanted: str) -> Response:
        answer = self._show(request, 429, f"Too many wrong tokens. Try again in {seconds} s.", name, wanted)
        answer.headers["Retry-After"] = str(seconds)
        return answer


class SignedIn:
    """Lets through who is signed in, with `request.state.session` set; everyone else is sent to sign in."""

    def __init__(self, app: ASGIApp, seal: Seal, templates: Templates, is_ended: Callable[[Session], bool]) -> None:
        self._app = app
        self._seal = seal
        self._templates = templates
        self._is_ended = is_ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        session = self._seal.read(request.cookies.get(COOKIE, ""), time.time())
        if session is None or await run_in_threadpool(self._is_ended, session):
            await self._invite(request)(scope, receive, send)
        else:
            request.state.session = session
            await self._app(scope, receive, send)

    def _invite(self, request: Request) -> Response:
        if request.method == "GET" and _came_by_a_link_of_another_site(request):
            return self._templates.page(request, "arrival.html")
        wanted = request.url.path.removeprefix(request.scope.get("root_path", ""))
        if request.url.query:
            wanted += f"?{request.url.query}"
        query = {"wanted": wanted} if request.method == "GET" and wanted != "/" else {}
        place = f"{request.scope.get('root_path', '')}/sign-in" + (f"?{urlencode(query)}" if query else "")
        if "hx-request" in request.headers:
            # Following a redirect, htmx would put the sign-in page where a part of another one belongs.
            return Response(status_code=401, headers={"HX-Redirect": place})
        if request.headers.get("accept") == "text/event-stream":
            return Response(status_code=401)
        return RedirectResponse(place, 303)


def _is_readable_on_the_way(request: Request) -> bool:
    """Whether a token that is sent here passes a network unencrypted, as far as is known here."""
    host = request.url.hostname or ""
    with suppress(ValueError):
        return request.url.scheme == "http" and not ipaddress.ip_address(host).is_loopback
    return request.url.scheme == "http" and host != "localhost"


def session_of(request: Request) -> Session:
    session: Session = request.state.session
    return session


def signed_out(request: Request) -> Response:
    answer = RedirectResponse(_within(request, "/sign-in"), 303)
    answer.delete_cookie(COOKIE, path=_cookie_path(request))
    return answer


def _set_cookie(request: Request, answer: Response, cookie: str) -> None:
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=int(SESSION_LENGTH.total_seconds()),
        path=_cookie_path(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def _cookie_path(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root or "/"


def _came_by_a_link_of_another_site(request: Request) -> bool:
    """Then a browser sends no SameSite=Strict cookie, though it has one; from a page of ours it does."""
    headers = request.headers
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") == "navigate"


def _within(request: Request, wanted: str) -> str:
    """The wanted place if it is one of the page's own, else its beginning."""
    is_ours = _PLACE.fullmatch(wanted) and ".." not in wanted
    root: str = request.scope.get("root_path", "")
    return root + (wanted if is_ours else "/")
