"""An operator walks the page with a real browser, while real events flow to the sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import Engine, text, update

from app.database import create_database_engine
from app.models import OUTBOX
from hubspot_sandbox import Sandbox
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.model import ATTEMPTS_MAX
from tests.page.browser import PHONE, Operator, chromium
from tests.page.conftest import SIGNED_UP, fail, live_settings, provision, serving, track

EVENTS, DRIVERS = 5_000, 500
# A machine may have more to do than this.
expect.set_options(timeout=20_000)
STAGE = "/crm/properties/2026-09/contacts/nerava_stage"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def _sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed=1, rate_max=100_000) as sandbox:
        yield sandbox


@dataclass
class Scene:
    """Nerava with its worker, the sandbox, and an operator who is signed in."""

    operator: Operator
    sandbox: Sandbox
    engine: Engine

    def set_stages(self, *stages: str) -> None:
        options = [{"label": it, "value": it} for it in stages]
        answer = httpx2.patch(
            f"{self.sandbox.url}{STAGE}", json={"options": options}, headers={"Authorization": "Bearer any"}
        )
        answer.raise_for_status()


def fail_many(engine: Engine) -> None:
    """As many events as that fail in HubSpot's hands would take minutes; these are failed by hand, for one reason."""
    payloads = ({"user_id": f"driver-{n % DRIVERS}", **SIGNED_UP} for n in range(EVENTS))
    operations.hold(engine, OUTBOX, "Events are being failed", by="tests")
    track(engine, "driver_signed_up", *payloads)
    with engine.begin() as connection:
        connection.execute(
            update(OUTBOX.events).values(
                attempt_count=ATTEMPTS_MAX,
                failed_at=OUTBOX.events.c.created_at,
                last_error="HubSpot refused it: no such option",
                failure_reason="HubSpot refused it: no such option",
                claim_token=None,
            )
        )
    operations.release(engine, OUTBOX, by="tests")


@pytest.fixture
def open_scene(browser: Browser, _sandbox: Sandbox) -> Iterator[Callable[[str], Scene]]:
    _sandbox.reset()
    with ExitStack() as stack:

        def start(database_url: str) -> Scene:
            settings = live_settings(database_url, _sandbox)
            engine = create_database_engine(database_url)
            stack.callback(engine.dispose)
            provision(settings, engine)
            address = stack.enter_context(serving(settings))
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            stack.callback(context.close)
            operator = Operator(context.new_page(), address)
            operator.sign_in()
            return Scene(operator, _sandbox, engine)

        yield start


@pytest.fixture
def scene(open_scene: Callable[[str], Scene], migrated_sqlite_url: str) -> Scene:
    return open_scene(migrated_sqlite_url)


def test_operator_watches_events_flow_finds_one_that_failed_mends_its_cause_and_sees_it_delivered(scene):
    operator, page = scene.operator, scene.operator.page
    scene.set_stages("signed_up")
    operator.go("/?range=1h")
    page.wait_for_function("document.querySelector('[data-figure=delivered] canvas')")
    before = operator.picture("delivered")

    track(scene.engine, "driver_signed_up", *({"user_id": f"driver-{n}", **SIGNED_UP} for n in range(30)))
    track(
        scene.engine,
        "driver_signed_up",
        {"user_id": "driver-x", "stage": "earning", "phone": "+491711234567", **SIGNED_UP},
    )

    expect(page.locator("[data-figure=delivered] [data-value]")).to_have_text("30")
    page.wait_for_function(
        "before => document.querySelector('[data-figure=delivered] canvas').toDataURL() !== before", arg=before
    )
    expect(page.locator("#reasons")).to_contain_text("INVALID_OPTION")
    page.locator("#reasons td.words a").click()
    page.get_by_role("link", name="driver_signed_up").click()
    expect(page.get_by_role("heading", name="Why it failed")).to_be_visible()
    expect(page.locator(".timeline")).to_contain_text("HubSpot answered 207")
    expect(page.locator(".timeline")).to_contain_text("correlation id")
    expect(page.get_by_role("main")).not_to_contain_text("+491711234567")
    page.get_by_role("button", name="Reveal personal data").click()
    expect(page.get_by_role("main")).to_contain_text("+491711234567")

    scene.set_stages("signed_up", "earning")
    page.get_by_role("link", name="Retry…").click()
    page.get_by_role("button", name="Retry 1 event").click()
    page.get_by_role("link", name="See the event").click()
    expect(page.locator(".timeline")).to_contain_text("Retry by page:Ada")
    while not page.locator("h1 .delivered").count():
        page.reload()
    expect(page.locator(".timeline")).to_contain_text("Delivered")
    page.get_by_role("link", name="driver-x").click()
    expect(page.locator(".verdict")).to_have_text("HubSpot has what we last sent.")
    page.get_by_role("link", name="Audit").click()
    expect(page.locator("tbody tr")).to_have_text([re.compile("retry"), re.compile("reveal")])
    contact = scene.sandbox.contact(nerava_user_id="driver-x")
    assert contact is not None
    assert contact["properties"]["nerava_stage"] == "earning"
    assert operator.complaints == []


def test_whole_reason_of_5000_events_is_retried_with_progress_shown_and_pressing_twice_retries_nothing_twice(
    open_scene, migrated_postgres_url
):
    scene = open_scene(migrated_postgres_url)
    page = scene.operator.page
    fail_many(scene.engine)
    expect(page.locator("#reasons h2")).to_contain_text("5,000 in all")

    page.get_by_role("link", name="Retry…").click()
    expect(page.get_by_role("heading", name="Retry 5,000 failed events?")).to_be_visible()
    preview = page.url
    with scene.engine.connect() as connection:
        # Readers go on, while the job waits to say in the audit what it did.
        connection.execute(text("LOCK TABLE outbox_events_audit_events IN EXCLUSIVE MODE"))
        page.get_by_role("button", name="Retry 5,000 events").dblclick()
        expect(page.get_by_role("heading", name="0 of 5,000 events retried")).to_be_visible()
    expect(page.get_by_role("heading", name="5,000 of 5,000 events retried")).to_be_visible(timeout=20_000)
    assert page.locator("progress").get_attribute("value") == "5000"
    page.goto(preview)
    expect(page.get_by_role("heading", name="Nothing to retry")).to_be_visible()
    page.get_by_role("link", name="Audit").click()
    expect(page.locator("tbody tr")).to_have_text(
        [re.compile("retry.*5,000", re.S), re.compile("release"), re.compile("hold")]
    )
    page.get_by_role("link", name="Overview").click()
    expect(page.locator("#reasons")).to_contain_text("No event has failed.")
    expect(page.locator("[data-figure=pending] [data-value]")).to_have_text("0")
    scene.sandbox.wait_until(lambda account: len(account.contacts) == DRIVERS)
    assert scene.operator.complaints == []


def test_every_view_can_be_used_by_everyone_in_light_and_dark_and_fits_a_phone(scene):
    operator, page = scene.operator, scene.operator.page
    script = "<script>alert(1)</script>"
    event_id = fail(scene.engine, user_id="driver-1", email="ada@example.com", note=script)
    unknown, *_ = track(scene.engine, script, {"user_id": "driver-2", "email": "b@example.com"})
    track(scene.engine, "driver_signed_up", {"user_id": "driver-3", "email": "grace@example.com", **SIGNED_UP})
    scene.sandbox.wait_until(lambda account: len(account.contacts) == 1)
    httpx2.patch(
        f"{scene.sandbox.url}/crm/objects/2026-09/contacts/driver-3?idProperty=nerava_user_id",
        json={"properties": {"firstname": script, "nerava_auth_provider": "google"}},
        headers={"Authorization": "Bearer any"},
    ).raise_for_status()
    views = {
        "/": "#reasons tbody tr",
        "/events": "tbody tr",
        f"/events/{event_id}": ".timeline",
        f"/events/{unknown}": ".timeline",
        "/contact?subject=driver-3": ".verdict",
        f"/retry?event={event_id}": ".events",
        "/discard?state=failed": ".events",
        "/jobs/unknown?verb=retry&total=7&state=failed": "progress",
        "/workers": ".facts",
        "/doctor/findings": "tbody tr",
        "/provision/plan": "#plan li",
        "/audit": ".quiet",
        "/sign-in": "form",
    }
    for path, sign in views.items():
        operator.go(path)
        page.locator(sign).first.wait_for()
        assert operator.violations() == [], path
        page.set_viewport_size(PHONE)
        assert not operator.is_wider_than_the_screen(), path
        page.set_viewport_size({"width": 1280, "height": 900})
    operator.go("/contact?subject=driver-3")
    expect(page.locator("#comparison")).to_contain_text("[personal]")
    page.get_by_role("button", name="Reveal personal data").click()
    expect(page.locator("#comparison")).to_contain_text(script)
    expect(page.locator("#comparison")).to_contain_text("grace@example.com")
    assert operator.complaints == []


def test_page_can_be_used_by_keyboard_alone(scene):
    page = scene.operator.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.locator("summary:focus").count():
            break
    expect(page.locator("summary")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("Contacts are being merged")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Ada holds deliveries")).to_be_visible()
    release = page.get_by_role("button", name="Release")
    release.focus()
    # The notices are replaced meanwhile, and the next key still presses what had the focus.
    page.evaluate(
        """() => {
            document.querySelector("#notices").title = "before"
            const whole = { target: "#notices", select: "#notices", swap: "outerHTML" }
            htmx.ajax("GET", location.pathname, whole)
        }"""
    )
    expect(page.locator("#notices")).not_to_have_attribute("title", "before")
    expect(release).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Deliveries go on")).to_be_visible()
    assert scene.operator.complaints == []


def test_signed_in_operator_who_follows_a_link_of_another_site_arrives_signed_in(scene):
    page = scene.operator.page
    elsewhere = scene.operator.address.replace("127.0.0.1", "localhost")
    page.goto(f"{elsewhere}/sign-in")
    page.evaluate("address => { location.href = address }", f"{scene.operator.address}/events")
    expect(page.get_by_role("heading", name="Events", exact=True)).to_be_visible()
    assert [it for it in scene.operator.complaints if "localhost" not in it] == []


def test_hold_shows_by_itself_with_its_remedy(scene):
    page = scene.operator.page
    scene.sandbox.faults.add("revoked")
    track(scene.engine, "driver_signed_up", {"user_id": "driver-1", **SIGNED_UP})
    expect(page.get_by_role("heading", name="Deliveries are held")).to_be_visible()
    expect(page.locator("#notices")).to_contain_text("HUBSPOT_PRIVATE_APP_TOKEN")
    assert scene.operator.complaints == []


def test_times_are_the_viewers_with_utc_under_the_pointer_and_a_span_is_typed_in_them_and_sent_in_utc(scene, browser):
    operations.hold(scene.engine, OUTBOX, "The events stay", by="tests")
    _, event_id = track(scene.engine, "driver_signed_up", *[{"user_id": "driver-1", **SIGNED_UP}] * 2)
    at = datetime(2026, 11, 24, 18, 30, 0, 250_000, tzinfo=UTC)
    with scene.engine.begin() as connection:
        connection.execute(update(OUTBOX.events).values(created_at=at, available_at=at))
    with browser.new_context(timezone_id="Asia/Kolkata") as context:
        operator = Operator(context.new_page(), scene.operator.address)
        page = operator.page
        operator.sign_in()
        operator.go(f"/events/{event_id}")
        expect(page.locator(".timeline time")).to_have_text("2026-11-25 00:00:00.250 GMT+5:30")
        expect(page.locator("#next")).to_contain_text("due since 2026-11-25 00:00:00 GMT+5:30")
        expect(page.locator("#next")).to_contain_text("The gate is shut")
        page.set_viewport_size(PHONE)
        assert not operator.is_wider_than_the_screen()
        assert operator.violations() == []
        operator.go("/events")
        told = page.locator("td.short time").first
        expect(told).to_have_text(re.compile(r"^2026-11-25 00:00 · \d+ d .*ago$"))
        expect(told).to_have_attribute("title", "2026-11-24 18:30:00.250 UTC")
        expect(page.locator("#zone")).to_contain_text("UTC is under the pointer")
        since = page.get_by_label("Since")
        since.fill("2026-11-25T00:00:01")
        expect(page.locator("#found")).to_contain_text("No event is like that")
        since.fill("2026-11-25T00:00:00")
        expect(page.locator("#found")).to_contain_text("2 events")
        expect(told).to_have_text(re.compile("^2026-11-25 00:00 "))
        assert "since=2026-11-24T18%3A30%3A00.000Z" in page.url
        page.goto(page.url)
        expect(since).to_have_value(re.compile("^2026-11-25T00:00"))
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        assert str(event_id) in download.value.path().read_text()
        assert operator.complaints == []
