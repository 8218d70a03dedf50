"""The ASGI application: the page, the control routes, and HubSpot's API behind its gateway."""

from starlette.applications import Starlette
from starlette.routing import Route

from hubspot_sandbox import api
from hubspot_sandbox.account import Account
from hubspot_sandbox.control import Control
from hubspot_sandbox.gateway import Gateway
from hubspot_sandbox.guard import Guard
from hubspot_sandbox.page import Page


def create_application(account: Account, gateway: Gateway, host: str = "127.0.0.1") -> Starlette:
    """`host` is where it listens."""
    # HubSpot's routes come last: their final one answers every path.
    own = [*Page(account).routes(), *Control(account).routes()]
    return Starlette(routes=[*(_guarded(route, host) for route in own), *api.routes(gateway)])


def _guarded(route: Route, host: str) -> Route:
    route.app = Guard(route.app, host=host)
    return route
