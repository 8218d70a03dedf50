"""HubSpot's own Node client, which speaks v3, takes the sandbox for HubSpot. `make node` installs it, and runs this."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hubspot_sandbox import Sandbox
from tests.conftest import BACKEND

FOLDER = BACKEND.parent / ".node"
STEPS = Path(__file__).parent / "node" / "steps.mjs"
LONGEST_SECONDS = 60


@pytest.fixture(autouse=True)
def node() -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node on this machine")
    if not (FOLDER / "node_modules" / "@hubspot" / "api-client").exists():
        pytest.skip("HubSpot's Node client is not installed; `make node` does that")
    return program


def seen(node: str, sandbox: Sandbox, step: str) -> Any:
    command = [node, str(STEPS), step, sandbox.url]
    ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_a_batch_upsert_creates_and_then_updates(node: str, sandbox: Sandbox) -> None:
    assert seen(node, sandbox, "upserts") == {"status": "COMPLETE", "isNew": [True, True, False]}
    assert sandbox.contact(email="ada@example.com")["properties"]["city"] == "Ulm"


def test_a_207_is_read_as_a_batch_with_errors(node: str, sandbox: Sandbox) -> None:
    answer = seen(node, sandbox, "mixed")
    assert answer["type"].endswith("WithErrors")
    assert (answer["count"], answer["error"]["objectWriteTraceId"]) == (1, ["1"])


def test_creating_a_contact_twice_is_a_409(node: str, sandbox: Sandbox) -> None:
    answer = seen(node, sandbox, "conflict")
    assert answer["refusal"]["code"] == 409
    assert answer["id"] in answer["refusal"]["body"]["message"]


def test_a_throttle_is_a_429_with_its_policy(node: str, sandbox: Sandbox) -> None:
    sandbox.faults.add("throttle", requests=1)
    answer = seen(node, sandbox, "throttle")
    assert (answer["code"], answer["body"]["policyName"]) == (429, "TEN_SECONDLY_ROLLING")


def test_properties_are_created_read_and_archived(node: str, sandbox: Sandbox) -> None:
    assert seen(node, sandbox, "properties") == {"created": True, "left": False}


def test_contacts_are_found_by_search_and_page_by_page(node: str, sandbox: Sandbox) -> None:
    sandbox.change(search_lag_seconds=0)
    assert seen(node, sandbox, "pages") == {
        "cities": ["Kiel"] * 5,
        "total": 5,
        "after": "3",
        "found": [f"d{i}@example.com" for i in (4, 3, 2)],
    }


def test_a_merge_and_an_archive_leave_one_contact_and_none(node: str, sandbox: Sandbox) -> None:
    assert seen(node, sandbox, "merge") == {"isAnother": True}
    assert sandbox.contacts() == []


def test_definitions_of_other_objects_are_empty_and_of_unknown_ones_refused(node: str, sandbox: Sandbox) -> None:
    answer = seen(node, sandbox, "discovery")
    assert answer["found"] == [0] * 9
    assert answer["refusal"]["code"] == 400
