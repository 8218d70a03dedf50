"""HubSpot's account from a terminal: what it must have, and whether all is well with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from hubspot_sync.cli.terminal import AsJson, console, fail, opened, print_json

if TYPE_CHECKING:
    from hubspot_sync.check import Check
    from hubspot_sync.integration import Integration
    from hubspot_sync.provisioning import Plan


def provision(
    context: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and do nothing.")] = False,
) -> None:
    """Create the property group and the contact properties that the events set. Repeatable; deletes nothing.

    Examples: `provision --plan` · `provision`
    """
    with opened(context) as integration:
        if not integration.settings.hubspot_private_app_token.get_secret_value():
            raise fail("HUBSPOT_PRIVATE_APP_TOKEN is empty; set it to look at the account.")
        if asyncio.run(_provision(integration, only_plan=plan)).differences:
            raise typer.Exit(1)


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Look at all that deliveries depend on, and say what to do. Exit code 1 if something fails.

    Examples: `doctor` · `doctor --json`
    """
    from hubspot_sync.check import Finding
    from hubspot_sync.doctor import examine

    with opened(context, needs_file=False) as integration:
        checks = asyncio.run(examine(integration))
        if as_json:
            print_json({"checks": [check.as_json() for check in checks]})
        else:
            _print_checks(checks)
        if any(check.finding is Finding.FAIL for check in checks):
            raise typer.Exit(1)


async def _provision(integration: Integration, *, only_plan: bool) -> Plan:
    from hubspot_sync.account import objection_to
    from hubspot_sync.provisioning import carry_out, look_at_account, plan_provisioning

    gate = integration.gate()
    await gate.prepare()
    async with integration.client() as client:
        account = await look_at_account(client, gate)
        console.print(f"portal {account.portal_id} ({account.type})")
        if not only_plan and (objection := objection_to(account, integration.settings.hubspot_portal_id)) is not None:
            raise fail(f"Nothing was created: {objection}")
        plan = await plan_provisioning(client, gate, integration.catalog)
        for line in plan.lines():
            console.print(f"  {line}")
        if not only_plan:
            async for line in carry_out(plan, client, gate, integration.catalog):
                console.print(f"✓ {line}", style="green")
    # What held deliveries may be mended: let the next one find out.
    await gate.probe_hold()
    return plan


def _print_checks(checks: list[Check]) -> None:
    from hubspot_sync.check import Finding

    styles = {Finding.PASS: "green", Finding.WARN: "yellow", Finding.FAIL: "red"}
    for check in checks:
        console.print(f"{check.finding:<4}  {check.name}: {check.detail}", style=styles[check.finding])
        if check.remedy:
            console.print(f"      {check.remedy}")
        if check.entry:
            console.print(f"      See {check.entry.place}")
