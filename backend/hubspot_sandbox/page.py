"""The page at `/`: the contacts, the last requests, and the faults with switches. It refreshes itself."""

from importlib.resources import files
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from hubspot_sandbox.account import Account
from hubspot_sandbox.faults import FaultKind, FaultWanted
from hubspot_sandbox.wire import iso

CONTACTS_SHOWN = 50
REQUESTS_SHOWN = 12
FAULT_SECONDS = 20


class Page:
    def __init__(self, account: Account) -> None:
        self._account = account
        environment = Environment(loader=PackageLoader("hubspot_sandbox"), autoescape=True)
        environment.filters["clock_time"] = lambda instant: iso(instant)[11:19]
        self._template = environment.get_template("page.html")
        self._style = files("hubspot_sandbox").joinpath("static", "page.css").read_bytes()

    def routes(self) -> list[Route]:
        return [
            Route("/", self.show, methods=["GET"]),
            Route("/page.css", self.style, methods=["GET"]),
            Route("/page/faults", self.switch_on, methods=["POST"]),
            Route("/page/faults/{id:int}/off", self.switch_off, methods=["POST"]),
            Route("/page/faults/off", self.switch_all_off, methods=["POST"]),
        ]

    async def show(self, _: Request) -> Response:
        account, now = self._account, self._account.clock()
        page = self._template.render(
            settings=account.settings,
            contacts=account.contacts.newest(CONTACTS_SHOWN),
            contact_count=len(account.contacts),
            requests=list(reversed(account.journal.last(REQUESTS_SHOWN))),
            journal=account.journal,
            daily_remaining=account.daily_limit.remaining(now),
            faults=[fault.as_json(now) for fault in account.faults.active(now)],
            kinds=list(FaultKind),
            fault_seconds=FAULT_SECONDS,
            now=now,
        )
        return HTMLResponse(page)

    async def style(self, _: Request) -> Response:
        return Response(self._style, media_type="text/css")

    async def switch_on(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode(errors="replace"))
        kind = form.get("kind", [""])[0]
        if kind not in FaultKind.__members__.values():
            return HTMLResponse("No such fault.", 400)
        wanted = FaultWanted(kind=FaultKind(kind), seconds=FAULT_SECONDS)
        self._account.faults.add(wanted, self._account.clock())
        return RedirectResponse("/", 303)

    async def switch_off(self, request: Request) -> Response:
        self._account.faults.remove(request.path_params["id"])
        return RedirectResponse("/", 303)

    async def switch_all_off(self, _: Request) -> Response:
        self._account.faults.clear()
        return RedirectResponse("/", 303)
