"""What stands on top: each trouble in its own words, since when, until when, and what to do about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx2
import pytest
from playwright.sync_api import expect

from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sandbox import Sandbox
from hubspot_sync.page.fleet import Fleet
from hubspot_sync.page.masks import masked_address
from hubspot_sync.page.notice import Act, Level
from hubspot_sync.page.notices import mark_of, notices
from hubspot_sync.runtime import WorkerState, WorkerStatus
from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.gate import row as gate_row
from sqlalchemy_outbox.gate.row import GateStatus
from sqlalchemy_outbox.housekeeping import workers
from sqlalchemy_outbox.housekeeping.workers import Sign
from sqlalchemy_outbox.model import GateState
from sqlalchemy_outbox.operations import KnownWorker, Snapshot
from tests.page.browser import PHONE, Operator
from tests.page.conftest import SIGNED_UP, fail, live_settings, serving, settings_for, track
from tests.page.shots import SHUT
from tests.page.test_browser import _sandbox, browser, open_scene, scene

__all__ = ["_sandbox", "browser", "open_scene", "scene"]

NOW = datetime.now(UTC)
SINCE, UNTIL = NOW - timedelta(minutes=4), NOW + timedelta(seconds=40)
LIVE = HubSpotSettings(hubspot_enabled=True, hubspot_send_live=True)
# A phone has this much room for what is wrong, and as much for the bar.
BANNER_MAX = PHONE["height"] / 6


def snapshot(gate: GateStatus | None = None, known: list[KnownWorker] | None = None) -> Snapshot:
    shut = gate or GateStatus(GateState.OPEN)
    return Snapshot(3, 0, 0, 240.0, 1, 0, shut, workers=None if known is None else tuple(known))


def worker(name: str = "a", *, is_alive: bool = True, seen_at: datetime = NOW, version: str = "1.0") -> KnownWorker:
    return KnownWorker(name, "m", 7, version, SINCE, seen_at, None, is_alive, 5, 2.0, 1.5, 10.0)


HELD, THROTTLED = GateState.HELD, GateState.THROTTLED


@pytest.mark.parametrize(
    ("state", "reason", "title", "remedy", "acts"),
    [
        (
            HELD,
            "HubSpot answered 401: X. HUBSPOT_PRIVATE_APP_TOKEN is not accepted: set a valid token.",
            "does not accept the token",
            "Set HUBSPOT_PRIVATE_APP_TOKEN",
            {Act.TRY_NOW, Act.DOCTOR},
        ),
        (
            HELD,
            "HubSpot answered 403: MISSING_SCOPES. Grant the token a.b, c.d.",
            "lacks scopes",
            "Grant the token a.b, c.d in",
            {Act.TRY_NOW, Act.DOCTOR},
        ),
        (HELD, "the token belongs to portal 1, …", "another account", "HUBSPOT_PORTAL_ID", {Act.TRY_NOW, Act.DOCTOR}),
        (
            HELD,
            "the account's property x is missing: run `provision`, …",
            "lacks what every event needs",
            "Provision",
            {Act.TRY_NOW, Act.PROVISION, Act.DOCTOR},
        ),
        (HELD, "a reason of tomorrow", "Deliveries are held", "Mend", {Act.TRY_NOW, Act.DOCTOR}),
        (
            THROTTLED,
            "outage: HubSpot answered 502",
            "answers with errors (502)",
            "Nothing to do",
            {Act.TRY_NOW, Act.DOCTOR},
        ),
        (THROTTLED, "outage: no answer in time", "HubSpot does not answer", "network", {Act.TRY_NOW, Act.DOCTOR}),
        (
            THROTTLED,
            "outage: one contact's requests get no answer, those of d (record 1): HubSpot answered 502",
            "One contact's requests",
            "Look at that contact",
            {Act.TRY_NOW, Act.DOCTOR},
        ),
        (
            THROTTLED,
            "7 of the account's 9 requests are left today; HUBSPOT_DAILY_RESERVE (0.05) keeps them",
            "down to the reserve",
            "which integration",
            {Act.TRY_NOW, Act.DOCTOR},
        ),
        (
            THROTTLED,
            "HubSpot answered 429: your daily limit.",
            "used up",
            "which integration",
            {Act.TRY_NOW, Act.DOCTOR},
        ),
        (THROTTLED, "HubSpot answered 429", "throttled", "HUBSPOT_REQUESTS_PER_SECOND", {Act.TRY_NOW}),
    ],
)
def test_each_trouble_has_its_own_words_its_remedy_and_what_can_be_done_here(state, reason, title, remedy, acts):
    [notice] = notices(snapshot(GateStatus(state, UNTIL, reason, since=SINCE)), WorkerStatus(WorkerState.RUNNING), LIVE)
    assert title in notice.title
    assert remedy in notice.remedy
    assert set(notice.acts) == acts
    assert (notice.since, notice.until, notice.costs) == (SINCE, UNTIL, True)
    if "day" in notice.title:
        assert "REQUESTS_PER_SECOND" not in notice.remedy
        assert notice.until_words == "the account's midnight"


def test_worst_comes_first_and_the_mark_of_the_notices_does_not_change_with_time():
    gate = GateStatus(GateState.THROTTLED, UNTIL, "HubSpot answered 429", since=SINCE)
    first, *_ = shown = notices(snapshot(gate), WorkerStatus(WorkerState.DEAD, "an error ended it"), LIVE)
    assert first.level is Level.BAD
    assert mark_of(shown) == mark_of(notices(snapshot(gate), WorkerStatus(WorkerState.DEAD, "an error ended it"), LIVE))


def test_dead_worker_is_told_beside_living_ones_and_none_alive_is_the_verdict():
    elsewhere = WorkerStatus(WorkerState.ELSEWHERE)
    dead = worker("b", is_alive=False, seen_at=SINCE)
    good, told = notices(snapshot(known=[worker(), dead]), elsewhere, LIVE)
    assert (good.level, told.level, told.since) == (Level.GOOD, Level.INFO, SINCE)
    [none] = notices(snapshot(known=[dead]), elsewhere, LIVE)
    assert (none.level, none.title, none.since) == (Level.BAD, "No worker lives", SINCE)


def test_fleet_adds_up_those_that_live_and_counts_their_versions():
    fleet = Fleet.of([worker("a"), worker("b", version="1.1"), worker("c", is_alive=False)])
    assert fleet.versions == [("1.0", 1), ("1.1", 1)]
    assert (fleet.in_flight, fleet.events_per_second, fleet.requests_per_second) == (10, 4.0, 3.0)
    assert fleet.share == pytest.approx(0.3)
    assert Fleet.of([]).share is None


@pytest.mark.parametrize(
    ("payload", "masked"),
    [
        ('{"email": "ada@example.com"}', "a…a@e…e.com"),
        ('{"email": "al@bo.co.uk"}', "a…@b….co.uk"),
        ('{"email": "a@b@c"}', None),
        ('{"email": "ada"}', None),
        ('{"email": ["ada@example.com"]}', None),
        ("[]", None),
        ("no JSON", None),
        ("", None),
    ],
)
def test_address_is_masked_so_that_only_who_knows_it_recognises_it(payload, masked):
    assert masked_address(payload, "email") == masked


def test_lists_show_a_masked_address_beside_the_subject(operator, engine):
    event_id = fail(engine, "driver-1", email="ada@example.com")
    for path in ("/events", f"/events/{event_id}", f"/retry?event={event_id}", "/contact?subject=driver-1"):
        shown = operator.get(path).text
        assert "a…a@e…e.com" in shown, path
        assert "ada@example.com" not in shown, path


def test_try_now_is_done_for_who_presses_it_and_stands_in_the_audit(operator, engine):
    with engine.begin() as connection:
        gate_row.make_row(connection, OUTBOX)
        gate_row.shut(connection, OUTBOX, HELD, timedelta(seconds=60), "token", is_answer=True)
    assert "Try now" in operator.get("/").text
    assert operator.act("/try-now").status_code == 303
    with engine.connect() as connection:
        assert gate_row.read_gate(connection, OUTBOX).wait_seconds == 0.0
    assert operations.read_audit(engine, OUTBOX)[0].action == "try now"


def test_plan_is_shown_before_anything_is_created_and_who_created_it_stands_in_the_audit(
    open_page, engine, database_url
):
    with Sandbox(seed=1) as sandbox:
        client = open_page(
            **live_settings(database_url, sandbox, hubspot_worker_in_app=False).model_dump(
                include={
                    "hubspot_private_app_token",
                    "hubspot_portal_id",
                    "hubspot_base_url",
                    "hubspot_requests_per_second",
                }
            )
        )
        client.sign_in()
        plan = client.get("/provision/plan").text
        assert "create property nerava_user_id" in plan
        assert operations.read_audit(engine, OUTBOX) == []
        assert client.act("/provision").status_code == 303
        assert "nothing to do" in client.get("/provision/plan").text
        findings = client.get("/doctor/findings").text
        assert "group and properties are as declared" in findings
    [entry] = operations.read_audit(engine, OUTBOX)
    assert (entry.action, entry.by) == ("provision", "page:Ada")
    assert "created property nerava_user_id" in entry.detail["done"]


def test_account_that_cannot_be_asked_or_is_another_is_said_and_nothing_is_created(open_page, engine):
    client = open_page(hubspot_private_app_token="pat-na1-0", hubspot_base_url="http://127.0.0.1:1")
    client.sign_in()
    assert "no connection" in client.get("/provision/plan").text
    assert client.act("/provision").status_code == 502
    with Sandbox(seed=1) as sandbox:
        other = open_page(
            hubspot_private_app_token="pat-na1-0", hubspot_base_url=sandbox.url, hubspot_portal_id="87654321"
        )
        other.sign_in()
        assert "the token belongs to portal" in other.get("/provision/plan").text
        assert other.act("/provision").status_code == 409
    assert operations.read_audit(engine, OUTBOX) == []


@pytest.mark.parametrize("range_", ["1h", "24h", "7d", "30d", "1y"])
def test_series_of_each_range_is_given_to_the_charts(operator, range_):
    answer = operator.get(f"/series?range={range_}")
    assert answer.status_code == 200
    assert answer.json()["range"] == range_
    assert operator.get("/series?range=x").status_code == 400


def test_operator_on_a_phone_is_told_what_is_wrong_mends_it_and_sees_it_go_on(scene):
    operator, page, sandbox = scene.operator, scene.operator.page, scene.sandbox
    page.set_viewport_size(PHONE)
    fail(scene.engine, user_id="driver-1", email="ada@example.com")
    sandbox.faults.add("revoked")
    track(scene.engine, "driver_signed_up", {"user_id": "driver-2", **SIGNED_UP})
    expect(page.get_by_role("heading", name="does not accept the token")).to_be_visible()
    expect(page.locator("#notices")).to_contain_text("Set HUBSPOT_PRIVATE_APP_TOKEN to a valid key")
    expect(page.locator("#reasons tbody tr")).to_have_count(1)
    for part in (".bar", "#notices .notice"):
        assert page.locator(part).first.bounding_box()["height"] <= BANNER_MAX, part
    reason = page.locator("#reasons td.words").first.bounding_box()
    assert reason["y"] + reason["height"] <= PHONE["height"]
    assert not operator.is_wider_than_the_screen()
    assert operator.violations() == []

    sandbox.faults.clear()
    page.get_by_role("button", name="Try now").click()
    expect(page.get_by_role("heading", name="Deliveries go on")).to_be_visible()
    sandbox.wait_until(lambda account: len(account.contacts) == 1)

    httpx2.delete(
        f"{sandbox.url}/crm/properties/2026-09/contacts/nerava_auth_provider", headers={"Authorization": "Bearer x"}
    ).raise_for_status()
    track(scene.engine, "driver_signed_up", {"user_id": "driver-3", **SIGNED_UP})
    expect(page.get_by_role("heading", name="waits for what the account lacks")).to_be_visible()
    page.get_by_role("link", name="Provision…").click()
    expect(page.locator("#plan")).to_contain_text("create property nerava_auth_provider")
    page.get_by_role("button", name="Create them").click()
    expect(page.locator("#plan")).to_contain_text("nothing to do")
    assert operator.complaints == []


def test_banner_takes_at_most_a_sixth_of_a_phone_whatever_shuts_the_gate(browser, engine, database_url):
    track(engine, "driver_signed_up", {"user_id": "driver-2", **SIGNED_UP})
    settings = settings_for(database_url, hubspot_enabled=True, hubspot_worker_in_app=False)
    with engine.begin() as connection:
        workers.note_alive(connection, OUTBOX, "w1", CATALOG.types, Sign("1.0"))
    with serving(settings) as address, browser.new_context(viewport=PHONE) as context:
        operator = Operator(context.new_page(), address)
        operator.sign_in()
        heights = {}
        for name, shut in SHUT.items():
            operations.release(engine, OUTBOX, by="cli:test")
            with engine.begin() as connection:
                shut.leave(connection)
            operator.go("/events")
            heights[name] = operator.page.locator("#notices .notice").first.bounding_box()["height"]
        assert {name: height for name, height in heights.items() if height > BANNER_MAX} == {}
