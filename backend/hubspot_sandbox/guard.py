"""Who may work the sandbox: people and scripts of this machine, but no web page that a browser has open."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """Around the page and the control routes. HubSpot's API has tokens, and no browser sends them unasked."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and (objection := self._objection_to(Headers(scope=scope))) is not None:
            app = PlainTextResponse(objection, 403)
        await app(scope, receive, send)

    def _objection_to(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if not (_is_nobodys_name(_name_of(host)) or _name_of(host) == self._host):
            # A page's own name may be made to lead here (DNS rebinding), and then the browser takes us for its server.
            return f"The sandbox is not {host!r}: ask it by localhost, by an address, or by a name without a dot."
        origin = headers.get("origin")
        is_elsewhere = origin is not None and _netloc_of(origin) != host
        if is_elsewhere or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "Another site's page sent this, so it was not done."
        return None


def _netloc_of(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _name_of(host: str) -> str:
    """Without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_nobodys_name(name: str) -> bool:
    """Whether it is no name that a stranger could have registered."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name.endswith(".localhost"))
    return True
