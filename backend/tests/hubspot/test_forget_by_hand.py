"""`forget` from a terminal: who is asked first, what the certificate says, and who is never named again."""

from __future__ import annotations

import json
import re

import pytest

from app.models import OUTBOX
from sqlalchemy_outbox import operations
from tests.hubspot.conftest import HubSpot
from tests.hubspot.test_command_line import run
from tests.hubspot.test_erasure import ADA, ADDRESS, deliver, hub

__all__ = ["hub"]
KEY = "e" * 32
REASON = "asked by letter"

pytestmark = pytest.mark.usefixtures("terminal", "live")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOT_ERASURE_KEY", KEY)


def test_forget_asks_first_and_its_certificate_says_what_was_erased_where(hub: HubSpot) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    hub.deliver()
    asked = run("forget", ADA, "--reason", REASON)
    assert (asked.exit_code, "Add --yes" in asked.output) == (0, True)
    assert run("forget", ADA, "--status").exit_code == 1
    done = run("forget", ADA, "--reason", REASON, "--yes")
    assert done.exit_code == 0, done.output
    assert "earlier release" in done.output
    waiting = run("forget", ADA, "--status")
    assert (waiting.exit_code, "waits for a worker" in waiting.output) == (1, True)
    assert run("status").output.count("forgetting") == 1
    deliver(hub)
    hub.earn(ADA, 5)
    shown = run("forget", ADA, "--status", "--json")
    assert shown.exit_code == 0
    [certificate] = json.loads(shown.stdout)["erasures"]
    assert (certificate["reason"], certificate["is_done"]) == (REASON, True)
    assert (certificate["destination"]["contacts"], certificate["here"]["refused"]) == (1, 1)
    [request] = certificate["destination"]["requests"]
    said = run("forget", ADA, "--status").output
    assert request["correlation_id"] in said
    instant = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.search(rf"^ forgotten  {instant}: {REASON}$", said, re.MULTILINE)
    assert re.search(rf"^in HubSpot  1 contact by erase, {instant}: 204 ", said, re.MULTILINE)
    assert re.search(rf"^      done  {instant}$", said, re.MULTILINE)
    assert ADA not in shown.stdout
    assert run("forget", "--vacuum").exit_code == 0


def test_audit_names_the_forgotten_by_their_names_whoever_types_them(hub: HubSpot) -> None:
    assert run("forget", ADA, "--reason", REASON, "--yes").exit_code == 0
    deliver(hub)
    run("contact", ADA, "--reveal")
    run("retry", "--subject", ADA, "--yes")
    operations.reveal(hub.engine, OUTBOX, "eve", by="test")
    entries = operations.read_audit(hub.engine, OUTBOX)
    assert [entry.action for entry in entries] == ["reveal", "reveal", "forget"]
    name = OUTBOX.names.of(ADA)
    assert [entry.detail.get("subject", entry.detail.get("name")) for entry in entries] == ["eve", name, name]


def test_what_an_erasure_holds_is_shown_to_nobody(hub: HubSpot) -> None:
    hub.sign_up(ADA, email=ADDRESS)
    assert run("forget", ADA, "--reason", REASON, "--yes").exit_code == 0
    hub.sandbox.switch(gdpr_delete="forbidden")
    hub.sandbox.run(lambda account: account.contacts.create({"email": ADDRESS}, account.clock()))
    deliver(hub)
    [failed] = operations.failure_reasons(hub.engine, OUTBOX)
    for arguments in ([], ["--json"], ["--reveal"]):
        shown = run("show", str(failed.newest.event_id), *arguments)
        assert shown.exit_code == 0
        assert ADDRESS not in shown.output


def test_forget_says_what_is_missing(hub: HubSpot, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("forget", ADA, "--yes").exit_code == 2
    assert run("forget").exit_code == 2
    assert run("forget", ADA, "--vacuum").exit_code == 2
    assert run("forget", "a" * 256, "--reason", REASON, "--yes").exit_code == 2
    assert run("forget", ADA, "--reason", REASON, "--yes").exit_code == 0
    assert "another HUBSPOT_ERASURE_KEY" not in run("doctor").output
    monkeypatch.setenv("HUBSPOT_ERASURE_KEY", "f" * 32)
    assert "1 subjects were forgotten by another HUBSPOT_ERASURE_KEY" in run("doctor").output
    monkeypatch.setenv("HUBSPOT_ERASURE_KEY", "short")
    assert "at least 32 characters" in run("forget", ADA, "--status").output
    monkeypatch.delenv("HUBSPOT_ERASURE_KEY")
    for arguments in (["--reason", REASON, "--yes"], ["--status"]):
        refused = run("forget", ADA, *arguments)
        assert (refused.exit_code, "HUBSPOT_ERASURE_KEY is empty" in refused.output) == (1, True)
