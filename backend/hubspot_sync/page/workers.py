"""The view of the workers: each of those that live, and the last sign of those that have ended."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hubspot_sync.page.context import PageContext

_ENDED_SHOWN = 20


class Workers:
    def __init__(self, context: PageContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [Route("/workers", self.show, methods=["GET"])]

    def show(self, request: Request) -> Response:
        context = self._context
        return context.show(
            request,
            "workers.html",
            ended_shown=_ENDED_SHOWN,
            rate_max=context.integration.settings.hubspot_requests_per_second,
        )
