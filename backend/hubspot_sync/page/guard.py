"""What holds for every answer and every request of the page, whatever route it is for."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_HEADERS = {
    # No inline script or style, nothing from elsewhere, and inside no other page.
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With `no-referrer` a browser sends forms as of `Origin: null`, which could be anybody's.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
}


class Guard:
    """Around all of the page: headers on every answer, and no action on behalf of another site."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
                if message["status"] == 413:
                    # What is left of the body is not to be read as the next request.
                    headers["Connection"] = "close"
            await send(message)

        app = self._app
        if scope["method"] not in _SAFE_METHODS and not _is_from_here(Headers(scope=scope)):
            app = PlainTextResponse(_refusal(Headers(scope=scope)), 403)
        await app(scope, receive, send_guarded)


def _is_from_here(headers: Headers) -> bool:
    """Whether a page of this very origin sent the request, as far as its browser says.

    `Sec-Fetch-Site` is the better witness, and missing where HTTP is not encrypted. Every browser sends `Origin` with
    a form; of it only the host is compared, because a proxy in front may be the one that speaks HTTPS. `null` is
    refused: a frame of any site may send it.
    """
    if (site := headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    try:
        return urlsplit(headers.get("origin", "")).netloc == headers["host"]
    except (KeyError, ValueError):
        return False


def _refusal(headers: Headers) -> str:
    """Why it is refused, for an operator whose proxy is to blame."""
    origin = headers.get("origin", "nowhere")
    return (
        "This action was not sent by the page itself, so it was not done.\n\n"
        f"Your browser says that it comes from {origin}, and it reached the application as "
        f"{headers.get('host', 'nobody')}. The two must name the same host and port. Where a proxy is in between, "
        "have it pass on the Host header as the browser sent it. Both HTTPS and plain HTTP are taken."
    )
