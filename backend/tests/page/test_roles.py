"""Two roles: a reader sees what is not personal and changes nothing; an operator acts, and ends all sessions."""

from __future__ import annotations

import re
import time

import pytest

from app.models import OUTBOX
from hubspot_sync.page.lockout import FAILURES_FREE
from hubspot_sync.page.roles import Role
from hubspot_sync.page.sessions import Seal
from hubspot_sync.page.sign_in import COOKIE
from sqlalchemy_outbox import operations
from tests.page.conftest import TOKEN, fail
from tests.page.test_attacks import ACTIONS

READER_TOKEN = "readers-token-of-the-tests"
EMAIL = "ada@example.com"


@pytest.fixture
def reader(open_page):
    client = open_page(reader_token=READER_TOKEN)
    assert client.sign_in(READER_TOKEN, "Rea").status_code == 303
    return client


def test_reader_sees_every_view_and_no_button_that_changes_something(reader, engine):
    event_id = fail(engine, "driver-1", email=EMAIL)
    operations.hold(engine, OUTBOX, "A test", by="tests")
    for path in (
        "/",
        "/events",
        "/events.csv",
        "/workers",
        "/audit",
        f"/events/{event_id}",
        f"/retry?event={event_id}",
        f"/discard?event={event_id}",
        "/contact?subject=driver-1",
        "/provision/plan",
        "/doctor/findings",
    ):
        answer = reader.get(path)
        assert answer.status_code == 200, path
        assert EMAIL not in answer.text
        assert set(re.findall(r'<form[^>]* action="/ops/hubspot([^"]*)"', answer.text)) <= {
            "/look-up",
            "/sign-out",
            "/events",
            "/retry",
        }, path
        assert not re.search(r'method="post" action="/ops/hubspot/(?!sign-out")', answer.text), path


def test_no_act_is_a_readers_whatever_form_it_sends(reader, engine):
    event_id = fail(engine, "driver-1", email=EMAIL)
    # That these are all is another test's to say.
    for place in {*ACTIONS, f"/events/{event_id}/reveal"} - {"/sign-out"}:
        answer = reader.act(
            place, event=str(event_id), key="k" * 20, reason="x", reason_to_discard="x", subject="driver-1"
        )
        assert answer.status_code == 403, place
        assert "reader" in answer.text
    assert operations.read_audit(engine, OUTBOX) == []
    assert operations.status(engine, OUTBOX).failed == 1


def test_readers_cookie_cannot_be_made_an_operators_and_ends_with_either_token(reader, open_page):
    cookie, now = reader.http.cookies[COOKIE], time.time()
    assert Seal(TOKEN, READER_TOKEN).read(cookie, now).role is Role.READER
    for seal in (Seal(TOKEN), Seal(TOKEN, "another readers token"), Seal("another operator's token", READER_TOKEN)):
        assert seal.read(cookie, now) is None
    assert Seal(TOKEN, READER_TOKEN).read(Seal(TOKEN).issue("Ada", now), now).may_act
    operator = open_page("10.0.0.3", reader_token=READER_TOKEN)
    operator.sign_in()
    assert operator.act("/hold", reason="A test").status_code == 303


@pytest.mark.parametrize("token", ["", "short", TOKEN])
def test_reader_token_that_is_no_better_than_none_admits_no_reader_and_the_log_says_so(open_page, token, caplog):
    client = open_page(reader_token=token)
    assert any("Readers stay out: READER_TOKEN" in message for message in caplog.messages) is bool(token)
    if token != TOKEN:
        assert client.sign_in(token, "Rea").status_code in (403, 422)
    client.sign_in()
    assert client.act("/hold", reason="A test").status_code == 303


def test_metrics_are_a_readers_too(reader):
    def scraped(token: str) -> int:
        return reader.http.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code

    assert (scraped(READER_TOKEN), scraped(TOKEN), scraped("another token of nobody")) == (200, 200, 401)


def test_operator_ends_all_sessions_in_every_process_and_who_knows_a_token_signs_in_again(open_page, reader, engine):
    operator = open_page("10.0.0.4", reader_token=READER_TOKEN)
    operator.sign_in()
    assert reader.get("/events").status_code == 200
    assert operator.act("/end-sessions").headers["location"] == "/ops/hubspot/sign-in"
    assert operator.get("/events").status_code == 303
    assert reader.get("/events").status_code == 303
    [entry] = operations.read_audit(engine, OUTBOX)
    assert (entry.action, entry.by) == ("end sessions", "page:Ada")
    later = Seal(TOKEN, READER_TOKEN).issue("Rea", time.time() + 2, Role.READER)
    assert reader.get("/events", Cookie=f"{COOKIE}={later}").status_code == 200


def test_reader_guesses_at_the_operators_token_no_faster_than_a_stranger(reader):
    for _ in range(FAILURES_FREE):
        assert reader.sign_in("a guess at the other token").status_code in (403, 429)
        reader.sign_in(READER_TOKEN, "Rea")
    assert reader.sign_in("a guess at the other token").status_code == 429
