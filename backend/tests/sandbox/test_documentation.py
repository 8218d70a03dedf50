"""docs/sandbox.md lists all there is to switch, and nothing that is not there."""

import re
from pathlib import Path

import pytest

from hubspot_sandbox import AccountSettings, FaultKind, Sandbox, Switches
from hubspot_sandbox.account import Account
from hubspot_sandbox.control import Control
from hubspot_sandbox.faults import FaultOptions, FaultWanted

PAGE = (Path(__file__).parents[3] / "docs" / "sandbox.md").read_text()


def rows(head: str) -> dict[str, str]:
    """The tables under this head, as first cell → the rest."""
    tables = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    cells = [re.match(r"\| `(\w+)` \| (.*) \|$", line) for table in tables for line in table.splitlines()]
    return {cell[1]: cell[2] for cell in cells if cell}


def test_every_fault_is_documented_with_its_meaning() -> None:
    assert rows("kind") == {kind.value: kind.meaning for kind in FaultKind}


def test_every_option_of_a_fault_is_documented_and_offered_in_python() -> None:
    options = set(FaultWanted.model_fields) - {"kind"}
    assert set(rows("option")) == options == set(FaultOptions.__annotations__)


def test_every_switch_is_documented_with_its_default() -> None:
    documented = {name: cell.split(" | ")[0].strip("`") for name, cell in rows("switch").items()}
    assert documented == {name: str(value).lower() for name, value in Switches().model_dump().items()}


def test_every_setting_of_the_account_is_documented() -> None:
    assert set(rows("setting")) == set(AccountSettings.model_fields)


@pytest.mark.parametrize(
    "path", sorted({route.path.split("{")[0].rstrip("/") for route in Control(Account()).routes()})
)
def test_every_control_route_is_documented(path: str) -> None:
    assert f"{path}" in PAGE


def test_switches_and_settings_change_by_http_until_a_reset(sandbox: Sandbox, hubspot) -> None:
    changed = hubspot.http.patch("/sandbox/account", json={"portal_id": 7, "switches": {"echo_trace_ids": False}})
    assert (changed.json()["portal_id"], changed.json()["switches"]["echo_trace_ids"]) == (7, False)
    assert changed.json()["switches"]["email_conflict"] == "conflict"
    assert hubspot.http.get("/account-info/v3/details").json()["portalId"] == 7
    for wrong in ({"portal_id": -1}, {"switches": {"surprise": 1}}, {"time_zone": "Mars/Olympus"}, {"surprise": 1}):
        assert hubspot.http.patch("/sandbox/account", json=wrong).status_code == 400
    sandbox.reset()
    assert hubspot.http.get("/sandbox/account").json()["portal_id"] == 12345678
