"""Links: from an alert to the view that answers it, and from the page and `doctor` to the entry that helps."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from app.models import OUTBOX
from app.settings import OPERATOR_PAGE
from hubspot_sync.entries import Entry
from sqlalchemy_outbox.gate import row as gate_row
from sqlalchemy_outbox.model import GateState
from tests.conftest import BACKEND
from tests.page.conftest import fail

DOCS = BACKEND.parent / "docs"
RULES = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"][0]["rules"]
# What who follows the alert's link is shown, of the outbox that `alarmed` brings about.
ANSWERS = {
    "EventLost": "Everything that deliveries depend on",
    "DeliveriesHeld": "Deliveries are held: HubSpot does not accept the token",
    "EventsWait": "Lag",
    "OutboxUnreadable": "Everything that deliveries depend on",
    "DeliveriesThrottled": "Since <time",
    "EventsFailed": 'id="reasons"',
    "EventsSetApart": "What the account lacks of what the events set",
    "ErasuresNotDone": "Erasures",
    "DayRunsOut": "Everything that deliveries depend on",
}


@pytest.fixture
def alarmed(operator, engine):
    """The page of an outbox of which much is wrong."""
    fail(engine, "driver-1")
    reason = "HubSpot answered 401. HUBSPOT_PRIVATE_APP_TOKEN is not accepted: set a valid token."
    with engine.begin() as connection:
        gate_row.make_row(connection, OUTBOX)
        gate_row.shut(connection, OUTBOX, GateState.HELD, gate_row.HOLD_PROBE_EVERY, reason, is_answer=True)
    return operator


def test_every_alert_leads_to_the_view_that_answers_it_and_its_address_survives_the_sign_in(alarmed, open_page):
    stranger = open_page("10.0.0.2")
    for rule in RULES:
        place = rule["annotations"]["view"].partition("#")[0].removeprefix(OPERATOR_PAGE)
        answer = alarmed.get(place)
        assert answer.status_code == 200, place
        assert ANSWERS[rule["alert"]] in answer.text, place
        sent_to = parse_qs(urlsplit(stranger.get(place).headers["location"]).query)
        assert sent_to.get("wanted", ["/"]) == [place]
        assert stranger.sign_in(wanted=place).headers["location"] == OPERATOR_PAGE + place
        stranger.http.cookies.clear()


def test_entries_that_the_page_and_the_doctor_name_are_in_the_document(alarmed):
    text = (DOCS / "operations.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert {str(entry) for entry in Entry} <= anchors
    assert Entry.HELD.place in alarmed.get("/").text
    assert Entry.FAILED.place in alarmed.get("/doctor/findings").text
