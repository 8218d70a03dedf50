"""The page at `/`: contacts, the last requests, faults and switches. Its script refreshes what changes."""

from importlib.resources import files
from typing import get_args
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from hubspot_sandbox.account import Account
from hubspot_sandbox.faults import FaultKind, FaultWanted, Stage
from hubspot_sandbox.switches import Switches
from hubspot_sandbox.wire import iso

CONTACTS_SHOWN = 50
REQUESTS_SHOWN = 12
FAULT_SECONDS = 20
STAGES = {
    Stage.EDGE: "Before the API",
    Stage.API: "By the API, nothing applied",
    Stage.INPUT: "About single inputs",
    Stage.ANSWER: "After the work is done",
    Stage.DELAY: "Late",
}


class Page:
    def __init__(self, account: Account) -> None:
        self._account = account
        environment = Environment(loader=PackageLoader("hubspot_sandbox"), autoescape=True)
        environment.filters["clock_time"] = lambda instant: iso(instant)[11:19]
        self._template = environment.get_template("page.html")
        static = files("hubspot_sandbox").joinpath("static")
        self._style = static.joinpath("page.css").read_bytes()
        self._script = static.joinpath("page.js").read_bytes()

    def routes(self) -> list[Route]:
        return [
            Route("/", self.show, methods=["GET"]),
            Route("/page.css", self.style, methods=["GET"]),
            Route("/page.js", self.script, methods=["GET"]),
            Route("/page/faults", self.switch_on, methods=["POST"]),
            Route("/page/faults/{id:int}/off", self.switch_off, methods=["POST"]),
            Route("/page/switches", self.change_switches, methods=["POST"]),
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
            stages=[(title, [kind for kind in FaultKind if kind.stage is stage]) for stage, title in STAGES.items()],
            switches=[_switch(account, name) for name in Switches.model_fields],
            fault_seconds=FAULT_SECONDS,
            now=now,
        )
        return HTMLResponse(page)

    async def style(self, _: Request) -> Response:
        return Response(self._style, media_type="text/css")

    async def script(self, _: Request) -> Response:
        return Response(self._script, media_type="text/javascript")

    async def switch_on(self, request: Request) -> Response:
        """A form's empty fields are left to their defaults."""
        form = await _form(request)
        try:
            wanted = FaultWanted.model_validate({"seconds": FAULT_SECONDS, **form} if len(form) == 1 else form)
        except ValidationError as error:
            return _refused(error)
        self._account.faults.add(wanted, self._account.clock())
        return RedirectResponse("/", 303)

    async def change_switches(self, request: Request) -> Response:
        try:
            self._account.change({"switches": await _form(request)})
        except ValidationError as error:
            return _refused(error)
        return RedirectResponse("/", 303)

    async def switch_off(self, request: Request) -> Response:
        self._account.faults.remove(request.path_params["id"])
        return RedirectResponse("/", 303)

    async def switch_all_off(self, _: Request) -> Response:
        self._account.faults.clear()
        return RedirectResponse("/", 303)


async def _form(request: Request) -> dict[str, str]:
    fields = parse_qs((await request.body()).decode(errors="replace"))
    return {name: values[0] for name, values in fields.items()}


def _refused(error: ValidationError) -> Response:
    problem = error.errors(include_url=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return PlainTextResponse(f"{where}: {problem['msg']}", 400)


def _switch(account: Account, name: str) -> dict[str, object]:
    """The switch as the page shows it; the next value is what its button turns it to."""
    values = list(get_args(Switches.model_fields[name].annotation)) or [False, True]
    value = getattr(account.switches, name)
    following = values[(values.index(value) + 1) % len(values)]
    return {"name": name, "value": str(value).lower(), "next": str(following).lower()}
