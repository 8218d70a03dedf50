"""What an operator is shown, and what is kept from view until it is asked for."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text, update

from app.events import CATALOG
from app.models import OUTBOX
from hubspot_sync.page.forms import Form
from hubspot_sync.page.notice import Level
from hubspot_sync.page.notices import notices
from hubspot_sync.page.rendering import STATIC, duration_in_words
from hubspot_sync.page.selection import fields_of, selection_of
from hubspot_sync.page.sessions import REVEAL_LENGTH, Seal
from hubspot_sync.page.sign_in import COOKIE
from hubspot_sync.runtime import WorkerState, WorkerStatus
from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.gate.row import GateStatus
from sqlalchemy_outbox.model import GateState, State
from sqlalchemy_outbox.operations import EventFilter, EventIds, Snapshot
from tests.conftest import BACKEND
from tests.page.conftest import SIGNED_UP, TOKEN, fail, track

EMAIL, PHONE = "ada@example.com", "+491711234567"


def test_personal_data_is_shown_only_after_a_reveal_which_is_audited(operator, engine):
    event_id = fail(engine, "driver-1", email=EMAIL, phone=PHONE, note=f"write to {EMAIL}")
    fail(engine, "driver-1", auth_provider=EMAIL, created_at=PHONE)
    for path in (
        "/",
        "/events",
        "/audit",
        f"/events/{event_id}",
        f"/retry?event={event_id}",
        "/contact?subject=driver-1",
    ):
        shown = operator.get(path).text
        assert EMAIL not in shown, path
        assert PHONE not in shown, path
    answer = operator.act(f"/events/{event_id}/reveal")
    place = answer.headers["location"].removeprefix("/ops/hubspot")
    shown = operator.get(place).text
    assert EMAIL in shown
    assert PHONE in shown
    [entry] = operations.read_audit(engine, OUTBOX)
    assert (entry.action, entry.by, entry.detail) == ("reveal", "page:Ada", {"subject": "driver-1"})


def test_reveal_is_of_one_subject_in_one_session_and_for_a_few_minutes(operator, engine):
    event_id, other = fail(engine, "driver-1", email=EMAIL), fail(engine, "driver-2", email=EMAIL)
    seal, now = Seal(TOKEN), time.time()
    session = seal.read(operator.http.cookies[COOKIE], now)
    another = seal.read(seal.issue("Eve", now), now)
    genuine = seal.reveal(session, "driver-1", now)
    assert EMAIL in operator.get(f"/events/{event_id}?reveal={genuine}").text
    for subject, reveal in (
        (other, genuine),
        (event_id, seal.reveal(another, "driver-1", now)),
        (event_id, seal.reveal(session, "driver-1", now - REVEAL_LENGTH.total_seconds() - 1)),
        (event_id, genuine.replace(genuine[0], "9", 1)),
        (event_id, "1"),
    ):
        assert EMAIL not in operator.get(f"/events/{subject}?reveal={reveal}").text


def test_events_are_found_by_filter_and_page_by_page(operator, engine):
    track(
        engine, "driver_signed_up", *({"user_id": f"d{n:03}", "created_at": "2026-11-24T18:00:00Z"} for n in range(60))
    )
    fail(engine, "the-failed-one")
    shown = operator.get("/events").text
    assert "the-failed-one" in shown
    assert "d011" in shown
    assert "d010" not in shown
    [older] = re.findall(r'href="/ops/hubspot(/events\?[^"]*before=\d+)"', shown)
    assert "d010" in operator.get(older.replace("&amp;", "&")).text
    assert "d059" not in operator.get("/events?state=failed").text
    assert "the-failed-one" not in operator.get("/events?subject=d001").text
    assert "No event is like that" in operator.get("/events?older_than=1d").text


def test_pending_event_says_what_happens_next_and_its_subject_shows_the_queue(operator, engine):
    first, second = track(engine, "driver_signed_up", *({"user_id": "driver-1", **SIGNED_UP} for _ in range(2)))
    shown = operator.get(f"/events/{second}").text
    assert "Attempt 1 of 3, due since" in shown
    assert "It waits behind 1 event of its subject" in shown
    assert f"/events/{first}" in shown
    assert "Nothing of its subject is before it" in operator.get(f"/events/{first}").text
    operations.hold(engine, OUTBOX, "A test", by="tests")
    assert "The gate is shut" in operator.get(f"/events/{first}").text
    queue = operator.get("/contact?subject=driver-1").text.partition('id="queue"')[2].partition("</section>")[0]
    assert [UUID(found) for found in re.findall(r"/events/([\w-]+)", queue)] == [first, second]
    failed = fail(engine, "driver-2")
    assert "What happens next" not in operator.get(f"/events/{failed}").text


def test_span_of_time_is_a_filter_whose_events_are_counted_and_exported(operator, engine):
    events = track(engine, "driver_signed_up", *({"user_id": f"d{n}", **SIGNED_UP} for n in range(60)))
    hostile = fail(engine, "=1+1", email=EMAIL)
    with engine.begin() as connection:
        connection.execute(update(OUTBOX.events).where(OUTBOX.events.c.event_id == hostile).values(last_error=EMAIL))
    now = datetime.now(UTC)
    around = f"since={now - timedelta(hours=1):%Y-%m-%dT%H:%M}&until={now + timedelta(hours=1):%Y-%m-%dT%H:%M}Z"
    shown = operator.get(f"/events?{around}").text
    assert "<b>61 events</b>" in shown
    assert "Retry 1 failed event?" not in operator.get(f"/retry?since={now + timedelta(hours=1):%Y-%m-%dT%H:%M}").text
    assert "Discard 1 failed event?" in operator.get(f"/discard?{around}").text
    assert "No event is like that" in operator.get(f"/events?since={now + timedelta(hours=1):%Y-%m-%dT%H:%M}").text
    [place] = re.findall(r'href="/ops/hubspot(/events\.json\?[^"]*)"', shown)
    exported = operator.get(place.replace("&amp;", "&"))
    assert "attachment" in exported.headers["content-disposition"]
    assert [UUID(event["event_id"]) for event in exported.json()] == [hostile, *events[::-1]]
    [row] = csv.DictReader(io.StringIO(operator.get("/events.csv?state=failed").text))
    assert (row["subject"], row["state"], row["event_id"]) == ("'=1+1", "failed", str(hostile))
    assert EMAIL not in operator.get("/events.csv").text + exported.text
    assert operator.get("/events.json?state=claimed").json() == []
    assert operator.get("/events.xml").status_code == 404
    assert operator.get("/events.csv?since=x").status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        "state=x",
        "older_than=x",
        "before=x",
        "before=-1",
        f"before={'9' * 40}",
        "since=x",
        "until=0001-01-01T00:00%2B14:00",
        "&".join(["a=b"] * 600),
    ],
)
def test_query_that_makes_no_sense_is_refused_and_not_an_error(operator, query):
    assert operator.get(f"/events?{query}").status_code == 400


def test_payload_that_no_encoding_takes_is_shown(operator, engine):
    event_id = fail(engine, "d", email="a@example.com", note="\ud800 \u202e")
    deep: object = "x"
    for _ in range(400):
        deep = {"a": deep}
    nested = fail(engine, "d", nested=deep)
    assert operator.get(f"/events/{event_id}").status_code == 200
    assert operator.get(f"/events/{nested}").status_code == 200


def test_search_leads_to_an_event_or_to_a_contact(operator, engine):
    event_id = fail(engine)
    assert operator.get(f"/look-up?what={event_id}").headers["location"].endswith(f"/events/{event_id}")
    other = "00000000-0000-0000-0000-000000000000"
    assert operator.get(f"/look-up?what={other}").headers["location"].endswith(f"/contact?subject={other}")
    assert operator.get("/look-up?what=+").headers["location"] == "/ops/hubspot/"


def test_contact_is_shown_though_hubspot_cannot_be_asked(open_page, engine):
    client = open_page(hubspot_private_app_token="pat-na1-0", hubspot_base_url="http://127.0.0.1:1")
    client.sign_in()
    fail(engine)
    shown = client.get("/contact/comparison?subject=driver-1")
    assert shown.status_code == 200
    assert "What HubSpot has is not known" in shown.text
    assert "driver_signed_up" in shown.text


def test_discarding_wants_a_reason_and_keeps_it(operator, engine):
    event_id = fail(engine)
    key = re.findall(r'name="key" value="([\w-]+)"', operator.get(f"/discard?event={event_id}").text)[0]
    assert operator.act("/discard", event=str(event_id), key=key).status_code == 422
    assert operator.act("/discard", event=str(event_id), key=key, reason_to_discard="A test").status_code == 303
    shown = operator.get(f"/events/{event_id}").text
    assert "discarded" in shown
    assert "A test" in shown
    assert operations.count(engine, OUTBOX, EventFilter(State.FAILED)) == 0


def test_retry_leaves_alone_what_no_worker_would_take_and_says_so(operator, engine):
    [unknown] = track(engine, "unknown_type", {"user_id": "d"})
    shown = operator.get(f"/retry?event={unknown}").text
    assert "Nothing to retry" in shown
    assert "of a type it does not know: 1" in shown


def test_same_button_pressed_twice_begins_one_job(operator, engine):
    event_id = fail(engine)
    places = {operator.act("/retry", event=str(event_id), key="k" * 20).headers["location"] for _ in range(2)}
    assert len(places) == 1
    [entry] = operations.read_audit(engine, OUTBOX)
    assert entry.count == 1


def test_resync_sends_what_the_application_knows_and_says_when_it_knows_nothing(operator):
    assert operator.act("/contact/resync", subject="nobody").status_code == 404


def test_database_that_is_not_migrated_is_said_and_not_an_error(operator, engine):
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox_events_deliveries"))
    answer = operator.get("/")
    assert answer.status_code == 503
    assert "migrated to head" in answer.text


def test_selection_survives_the_way_through_a_form():
    for selection in (
        EventIds(frozenset({UUID(int=7)})),
        EventFilter(State.FAILED, "a&b", "d=1", timedelta(hours=1), "no # “reason”"),
        EventFilter(reason=""),
        EventFilter(since=datetime(2026, 12, 1, 3, 0, 0, 500, tzinfo=UTC), until=datetime(2026, 12, 2, tzinfo=UTC)),
    ):
        fields: dict[str, list[str]] = {}
        for name, value in fields_of(selection):
            fields.setdefault(name, []).append(value)
        assert selection_of(Form(fields)) == selection


@pytest.mark.parametrize(
    ("snapshot", "worker", "title"),
    [
        ({}, WorkerState.RUNNING, "Deliveries go on"),
        ({"gate": GateStatus(GateState.HELD, reason="Grant the scope")}, WorkerState.RUNNING, "Deliveries are held"),
        ({"gate": GateStatus(GateState.HELD, held_by="cli:ada")}, WorkerState.RUNNING, "ada holds deliveries"),
        ({"gate": GateStatus(GateState.THROTTLED, reason="outage: x")}, WorkerState.RUNNING, "HubSpot does not answer"),
        ({"gate": GateStatus(GateState.THROTTLED, reason="429")}, WorkerState.RUNNING, "Deliveries are throttled"),
        ({}, WorkerState.DEAD, "The worker has ended"),
        ({}, WorkerState.DISABLED, "No worker runs here"),
        ({}, WorkerState.NOT_CONFIGURED, "The worker did not start"),
        ({}, WorkerState.ELSEWHERE, "Deliveries go on"),
        ({"oldest_pending_seconds": 31.0}, WorkerState.ELSEWHERE, "Events wait, and no worker takes them"),
        ({"oldest_pending_seconds": 31.0}, WorkerState.RUNNING, "Events wait, and nothing is delivered"),
        ({"oldest_pending_seconds": 31.0, "delivered_last_minute": 1}, WorkerState.RUNNING, "Deliveries go on"),
    ],
)
def test_notice_names_what_is_the_matter(snapshot, worker, title):
    well = {"pending": 0, "claimed": 0, "failed": 0, "oldest_pending_seconds": None, "delivered_last_minute": 0}
    shown = Snapshot(**(well | {"requests_last_minute": 0, "gate": GateStatus(GateState.OPEN)} | snapshot))
    settings = HubSpotSettings(hubspot_enabled=True, hubspot_send_live=True)
    [notice] = notices(shown, WorkerStatus(worker), settings)
    assert notice.title == title
    [*_, dry_run] = notices(shown, WorkerStatus(worker), HubSpotSettings(hubspot_enabled=True))
    assert (dry_run.level, dry_run.title) == (Level.INFO, "This is a dry run")


def test_durations_are_told_in_their_two_largest_units():
    told = [duration_in_words(it) for it in (0, 0.9, 59, 60, 61, 3600, 90_061, timedelta(days=12, minutes=5))]
    assert told == ["0 s", "0 s", "59 s", "1 min", "1 min 1 s", "1 h", "1 d 1 h", "12 d"]


@pytest.mark.parametrize("folder", [STATIC / "vendor", BACKEND / "tests" / "page" / "vendor"])
def test_files_of_others_are_the_published_ones(folder):
    listed = re.findall(r"^\| (\S+) \|.*\| (\w{64}) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name, _ in listed} == dict(listed)
    assert {it.name for it in folder.glob("*.min.*")} == {name for name, _ in listed}


def test_every_event_type_of_the_application_can_be_chosen(operator):
    shown = operator.get("/events").text
    assert all(f'<option value="{it}"' in shown for it in CATALOG.types)
