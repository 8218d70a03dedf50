"""docs/operations.md: each symptom is brought about, its commands are run, and what they print is what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.models import Driver, Wallet
from app.services.hubspot import forget
from hubspot_sandbox import Sandbox
from hubspot_sandbox.account import Account
from tests.conftest import BACKEND
from tests.hubspot.conftest import HubSpot, settings_for
from tests.hubspot.test_command_line import run

pytestmark = pytest.mark.usefixtures("terminal")

DOCUMENT = (BACKEND.parent / "docs" / "operations.md").read_text()
EMAIL = "ada@example.com"
NOTHING_YET = {"balance": 0, "lifetime_earned": 0, "lifetime_redeemed": 0, "earned_count": 0, "redeemed_count": 0}


def entries() -> dict[str, str]:
    return dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE))


def commands(entry: str) -> list[tuple[list[str], list[str]]]:
    """Each command's arguments, and the lines that it is said to print."""
    found: list[tuple[list[str], list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", entry, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((shlex.split(line)[4:], []))
            else:
                found[-1][1].append(line)
    return found


def is_as_said(printed: str, said: list[str]) -> bool:
    """A line `…` stands for any lines, and within a line for any text."""
    pattern = "".join(r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*?") + r"\n" for line in said)
    return re.fullmatch(pattern, printed if printed.endswith("\n") or not printed else f"{printed}\n") is not None


def _archive(account: Account) -> None:
    contact = account.contacts.find("email", EMAIL)
    assert contact is not None
    account.contacts.archive(contact, account.clock())


class Symptoms:
    """Brings each one about; returns what EVENT and SUBJECT stand for."""

    def __init__(self, hubspot: HubSpot, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hubspot, self.sandbox, self.monkeypatch = hubspot, sandbox, monkeypatch

    def of(self, title: str) -> dict[str, str]:
        bring_about: dict[str, Callable[[], dict[str, str]]] = {
            "Events are stored and nothing is sent": self.disabled,
            "Lag grows": self.revoked,
            "Deliveries are held": self.held,
            "Deliveries are throttled": self.throttled,
            "The day's requests run out": self.exhausted,
            "A type of event waits": self.waiting,
            "An erasure is not done": self.refused_erasure,
            "Events have failed": self.failed,
            "Failed events that nobody needs": self.failed,
            "A driver is missing in HubSpot, or looks wrong there": self.deleted,
            "From a dry run to live, and drivers from before": self.after_a_dry_run,
            "An event is lost": self.lost,
            "HubSpot must be left alone for a while": self.nothing,
            "The outbox cannot be read": self.unreadable,
            "The table grows": self.old,
        }
        return bring_about[title]()

    def mended(self, title: str, command: list[str]) -> None:
        """What the person does between the commands."""
        if title == "Deliveries are held" and command[0] == "release":
            self.sandbox.faults.clear()
        if title == "Events have failed" and "--yes" in command:
            self.sandbox.faults.clear()

    def nothing(self) -> dict[str, str]:
        return {}

    def disabled(self) -> dict[str, str]:
        self.monkeypatch.setenv("HUBSPOT_ENABLED", "false")
        self.hubspot.sign_up("driver-1")
        return {}

    def revoked(self) -> dict[str, str]:
        self.sandbox.faults.add("revoked")
        return {}

    def held(self) -> dict[str, str]:
        self.hubspot.provision()
        self.hubspot.sign_up("driver-1", email=EMAIL)
        self.sandbox.faults.add("revoked")
        self.hubspot.deliver()
        return {}

    def throttled(self) -> dict[str, str]:
        self.hubspot.provision()
        self.hubspot.sign_up("driver-1", email=EMAIL)
        self.sandbox.faults.add("bad_gateway", path="/batch/upsert")
        self.hubspot.deliver()
        return {}

    def exhausted(self) -> dict[str, str]:
        # With so few requests a day, the reserve is of one only if the provisioning has had its part of them.
        self.sandbox.reset()
        self.hubspot.provision()
        self.hubspot.sign_up("driver-1", email=EMAIL)
        # Enough for a look at the account and the delivery, and then one is left.
        self.sandbox.change(requests_per_day=len(self.sandbox.requests()) + 3)
        self.hubspot.deliver()
        return {}

    def unreadable(self) -> dict[str, str]:
        with self.hubspot.engine.begin() as connection:
            connection.execute(text("DROP TABLE outbox_events"))
        return {}

    def waiting(self) -> dict[str, str]:
        self.hubspot.provision()
        self.sandbox.run(lambda account: account.archive_property("nerava_lifetime_earned"))
        self.hubspot.earn("driver-1", 5)
        self.hubspot.deliver()
        return {}

    def refused_erasure(self) -> dict[str, str]:
        key = "k" * 32
        self.monkeypatch.setenv("HUBSPOT_ERASURE_KEY", key)
        self.hubspot.settings = settings_for(self.sandbox, hubspot_erasure_key=key)
        self.hubspot.provision()
        self.hubspot.sign_up("driver-1", email=EMAIL)
        self.hubspot.deliver()
        self.sandbox.switch(gdpr_delete="forbidden")
        with Session(self.hubspot.engine) as db, db.begin():
            forget(db, "driver-1", reason="asked by letter")
        self.hubspot.deliver()
        return {"SUBJECT": "driver-1"}

    def failed(self) -> dict[str, str]:
        self.hubspot.provision()
        self.sandbox.faults.add("input_refused", path="/batch/upsert")
        event_ids = [self.hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(3)]
        self.hubspot.deliver()
        return {"EVENT": str(event_ids[0])}

    def deleted(self) -> dict[str, str]:
        self.hubspot.provision()
        [subject] = self._drivers(EMAIL)
        self.hubspot.sign_up(subject, email=EMAIL)
        self.hubspot.deliver()
        self.sandbox.run(_archive)
        return {"SUBJECT": subject}

    def after_a_dry_run(self) -> dict[str, str]:
        self.hubspot.provision()
        self._drivers("ada@example.com", "grace@example.com")
        return {}

    def lost(self) -> dict[str, str]:
        [subject] = self._drivers(EMAIL)
        return {"SUBJECT": subject}

    def old(self) -> dict[str, str]:
        self.hubspot.provision()
        self.hubspot.sign_up("driver-1", email=EMAIL)
        self.hubspot.deliver()
        self.hubspot.queue.pass_time(timedelta(days=8))
        return {}

    def _drivers(self, *emails: str) -> list[str]:
        with Session(self.hubspot.engine) as db, db.begin():
            drivers = [
                Driver(
                    id=uuid4(),
                    email=it,
                    auth_provider="email",
                    created_at=datetime.now(UTC),
                    wallet=Wallet(**NOTHING_YET),
                )
                for it in emails
            ]
            db.add_all(drivers)
            db.flush()
            return [str(it.id) for it in drivers]


@pytest.mark.parametrize("title", entries())
def test_entry_is_as_it_says(
    title: str, engine: Engine, live: Sandbox, hubspot: HubSpot, monkeypatch: pytest.MonkeyPatch
) -> None:
    symptoms = Symptoms(hubspot, live, monkeypatch)
    placeholders = symptoms.of(title)
    found = commands(entries()[title])
    assert found
    for command, said in found:
        result = run(*(placeholders.get(it, it) for it in command))
        assert is_as_said(result.stdout, said), f"{' '.join(command)} printed:\n{result.output}"
        symptoms.mended(title, command)
