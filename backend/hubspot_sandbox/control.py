"""`/sandbox/…`: switching faults and looking inside, without a token and without counting as an API request."""

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hubspot_sandbox.account import Account
from hubspot_sandbox.faults import FaultWanted
from hubspot_sandbox.openapi import openapi_document
from hubspot_sandbox.wire import JsonObject

PAGE_LIMIT_MAX = 10_000
_CHANGES = TypeAdapter(dict[str, object])


class Control:
    def __init__(self, account: Account) -> None:
        self._account = account

    def routes(self) -> list[Route]:
        return [
            Route("/sandbox/faults", self.add_fault, methods=["POST"]),
            Route("/sandbox/faults", self.list_faults, methods=["GET"]),
            Route("/sandbox/faults", self.clear_faults, methods=["DELETE"]),
            Route("/sandbox/faults/{id:int}", self.remove_fault, methods=["DELETE"]),
            Route("/sandbox/account", self.show_account, methods=["GET"]),
            Route("/sandbox/account", self.change_account, methods=["PATCH"]),
            Route("/sandbox/openapi.json", self.show_openapi, methods=["GET"]),
            Route("/sandbox/contacts", self.list_contacts, methods=["GET"]),
            Route("/sandbox/contacts", self.delete_contacts, methods=["DELETE"]),
            Route("/sandbox/requests", self.list_requests, methods=["GET"]),
            Route("/sandbox/stats", self.stats, methods=["GET"]),
            Route("/sandbox/reset", self.reset, methods=["POST"]),
        ]

    async def add_fault(self, request: Request) -> Response:
        try:
            wanted = FaultWanted.model_validate_json(await request.body())
        except ValidationError as error:
            return _refused(error)
        now = self._account.clock()
        fault = self._account.faults.add(wanted, now)
        return JSONResponse(fault.as_json(now), 201)

    async def list_faults(self, _: Request) -> Response:
        now = self._account.clock()
        return JSONResponse({"results": [fault.as_json(now) for fault in self._account.faults.active(now)]})

    async def clear_faults(self, _: Request) -> Response:
        self._account.faults.clear()
        return Response(status_code=204)

    async def remove_fault(self, request: Request) -> Response:
        self._account.faults.remove(request.path_params["id"])
        return Response(status_code=204)

    async def show_account(self, _: Request) -> Response:
        return JSONResponse(self._account.settings.model_dump(mode="json"))

    async def change_account(self, request: Request) -> Response:
        """Some settings, and of the switches some, until the account is reset."""
        try:
            self._account.change(_CHANGES.validate_json(await request.body()))
        except ValidationError as error:
            return _refused(error)
        return await self.show_account(request)

    async def show_openapi(self, _: Request) -> Response:
        return JSONResponse(openapi_document())

    async def list_contacts(self, request: Request) -> Response:
        """`?limit=` and `?after=` page through; each `?property=` names one to show instead of all that are set."""
        limit = _number(request, "limit", 100, PAGE_LIMIT_MAX)
        contacts = self._account.contacts.page(after=_number(request, "after", 0), limit=limit)
        wanted = request.query_params.getlist("property")
        results = [
            contact.as_json({name: contact.value(name) for name in wanted} if wanted else contact.everything())
            for contact in contacts
        ]
        body: JsonObject = {"total": len(self._account.contacts), "results": results}
        if len(contacts) == limit:
            body["next_after"] = str(contacts[-1].id)
        return JSONResponse(body)

    async def delete_contacts(self, _: Request) -> Response:
        self._account.contacts.clear()
        return Response(status_code=204)

    async def list_requests(self, request: Request) -> Response:
        records = self._account.journal.last(_number(request, "limit", 100, PAGE_LIMIT_MAX))
        return JSONResponse({"results": [record.as_json() for record in records]})

    async def stats(self, _: Request) -> Response:
        journal = self._account.journal
        return JSONResponse(
            {
                "requests": journal.total,
                "inputs": journal.inputs,
                "by_status": dict(journal.by_status),
                "contacts": len(self._account.contacts),
            }
        )

    async def reset(self, _: Request) -> Response:
        self._account.reset()
        return Response(status_code=204)


def _refused(error: ValidationError) -> Response:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return JSONResponse({"errors": problems}, 400)


def _number(request: Request, name: str, default: int, maximum: int | None = None) -> int:
    """A query parameter as a number of at least 0; the default where it is none."""
    text = request.query_params.get(name, "")
    number = int(text) if text.isascii() and text.isdigit() else default
    return number if maximum is None else min(number, maximum)
