"""HubSpot's account from the page: what it lacks, the plan before it is carried out, and what the doctor finds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from hubspot_sync.account import Account, objection_to
from hubspot_sync.check import Check, Finding
from hubspot_sync.doctor import examine
from hubspot_sync.errors import HubSpotError
from hubspot_sync.integration import Integration
from hubspot_sync.page.context import PageContext
from hubspot_sync.page.forms import Form
from hubspot_sync.page.sign_in import session_of
from hubspot_sync.provisioning import Plan, carry_out, look_at_account, plan_provisioning
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.gate.gate import GateShut

_RANKS = (Finding.FAIL, Finding.WARN, Finding.PASS)


@dataclass(frozen=True, slots=True)
class Provisioning:
    """What provisioning would do; `objection` says why it may not, or cannot be told."""

    account: Account | None = None
    plan: Plan | None = None
    objection: str | None = None


class AccountViews:
    """Views that ask HubSpot run in a thread with a loop of its own: what they do besides is for threads."""

    def __init__(self, context: PageContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/provision", self.show_provision, methods=["GET"]),
            Route("/provision/plan", self.show_plan, methods=["GET"]),
            self._context.action("/provision", self.provision),
            Route("/doctor", self.show_doctor, methods=["GET"]),
            Route("/doctor/findings", self.show_findings, methods=["GET"]),
        ]

    def show_provision(self, request: Request) -> Response:
        """At once, without HubSpot; the page then asks for the plan."""
        return self._context.show(request, "provision.html", provisioning=None)

    def show_plan(self, request: Request) -> Response:
        return self._context.show(request, "provision.html", provisioning=asyncio.run(_look(self._context.integration)))

    def provision(self, request: Request, _form: Form) -> Response:
        context, by = self._context, session_of(request).by
        done: list[str] = []
        try:
            asyncio.run(_carry_out(context.integration, done))
        except (HubSpotError, GateShut) as error:
            raise HTTPException(502, f"Not all was created: {error}. Look at the plan again.") from error
        finally:
            if done:
                operations.note_provision(context.engine, context.outbox, done, by=by)
        return RedirectResponse(context.place(request, "/provision"), 303)

    def show_doctor(self, request: Request) -> Response:
        return self._context.show(request, "doctor.html", checks=None)

    def show_findings(self, request: Request) -> Response:
        checks: list[Check] = asyncio.run(examine(self._context.integration))
        checks.sort(key=lambda check: _RANKS.index(check.finding))
        return self._context.show(request, "doctor.html", checks=checks)


async def _look(integration: Integration) -> Provisioning:
    if not integration.settings.hubspot_private_app_token.get_secret_value():
        return Provisioning(objection="HUBSPOT_PRIVATE_APP_TOKEN is empty; set it to look at the account.")
    gate = integration.gate()
    await gate.prepare()
    try:
        async with integration.client() as client:
            account = await look_at_account(client, gate)
            plan = await plan_provisioning(client, gate, integration.catalog)
    except (HubSpotError, GateShut) as error:
        return Provisioning(objection=f"What the account lacks is not known: {error}")
    return Provisioning(account, plan, objection_to(account, integration.settings.hubspot_portal_id))


async def _carry_out(integration: Integration, done: list[str]) -> None:
    """Add to `done` what was created, as it is."""
    gate = integration.gate()
    await gate.prepare()
    async with integration.client() as client:
        account = await look_at_account(client, gate)
        if (objection := objection_to(account, integration.settings.hubspot_portal_id)) is not None:
            raise HTTPException(409, f"Nothing was created: {objection}")
        plan = await plan_provisioning(client, gate, integration.catalog)
        async for line in carry_out(plan, client, gate, integration.catalog):
            done.append(line)
