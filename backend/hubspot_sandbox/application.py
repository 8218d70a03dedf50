"""The ASGI application: the page, the control routes, and HubSpot's API behind its gateway."""

from starlette.applications import Starlette

from hubspot_sandbox import api
from hubspot_sandbox.account import Account
from hubspot_sandbox.control import Control
from hubspot_sandbox.gateway import Gateway
from hubspot_sandbox.page import Page


def create_application(account: Account, gateway: Gateway) -> Starlette:
    # HubSpot's routes come last: their final one answers every path.
    return Starlette(routes=[*Page(account).routes(), *Control(account).routes(), *api.routes(gateway)])
