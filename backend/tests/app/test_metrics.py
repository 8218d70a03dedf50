"""/metrics is the operator's: nothing without the token, and nothing that names a person with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.main import create_app
from app.settings import OPERATOR_PAGE
from hubspot_sync.page.lockout import FAILURES_FREE, FAILURES_OVERALL_MAX
from tests.app.conftest import Hub, on_sqlite_only, settings_for

TOKEN = "operators-token-of-the-tests"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def hub(database_url: str) -> Iterator[Hub]:
    """With the operator's token set."""
    codes = []
    settings = settings_for(database_url).model_copy(update={"operator_token": SecretStr(TOKEN)})
    with TestClient(create_app(settings, codes.append), raise_server_exceptions=False) as http:
        yield Hub(http, codes)


def test_metrics_are_shown_with_the_token(hub):
    hub.sign_up(email="ada@example.com")
    answer = hub.http.get("/metrics", headers=AUTHORIZATION)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["cache-control"] == "no-store"
    lines = answer.text.splitlines()
    assert 'outbox_events{outbox="outbox_events",state="pending"} 1.0' in lines
    assert 'outbox_gate_state{outbox="outbox_events",state="open"} 1.0' in lines
    assert 'outbox_readable{outbox="outbox_events"} 1.0' in lines
    assert "outbox_events_lost_total" in answer.text
    assert "ada@" not in answer.text


@on_sqlite_only
def test_openmetrics_are_shown_to_whoever_asks_for_them(hub):
    answer = hub.http.get("/metrics", headers=AUTHORIZATION | {"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@on_sqlite_only
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer operators"}, {"Authorization": "Basic x"}])
def test_without_the_right_token_metrics_are_refused(hub, headers):
    answer = hub.http.get("/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["detail"] == "Send OPERATOR_TOKEN as `Authorization: Bearer …`."


@on_sqlite_only
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer "}, AUTHORIZATION])
def test_while_no_token_is_set_there_is_nothing(database_url, headers):
    with TestClient(create_app(settings_for(database_url))) as http:
        assert http.get("/metrics", headers=headers).status_code == 404
        assert http.get("/metrics", headers=headers).json() == http.get("/metrics", headers=headers).json()


@on_sqlite_only
@pytest.mark.parametrize("token", ["abc", "x" * 15])
def test_token_that_is_easy_to_guess_opens_nothing(database_url, token):
    settings = settings_for(database_url).model_copy(update={"operator_token": SecretStr(token)})
    with TestClient(create_app(settings)) as http:
        assert http.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == 404


@on_sqlite_only
def test_guesses_are_counted_logged_and_locked_out_on_page_and_metrics_together(hub, caplog):
    origin = {"Origin": "http://testserver"}
    for n in range(3):
        assert hub.http.get("/metrics", headers={"Authorization": f"Bearer guess-{n}"}).status_code == 401
    for _ in range(2):
        form = {"name": "Eve", "token": "a guess"}
        assert hub.http.post(f"{OPERATOR_PAGE}/sign-in", data=form, headers=origin).status_code == 403
    locked = hub.http.get("/metrics", headers=AUTHORIZATION)
    assert locked.status_code == 429
    assert 50 <= int(locked.headers["retry-after"]) <= 60
    form = {"name": "Ada", "token": TOKEN}
    assert hub.http.post(f"{OPERATOR_PAGE}/sign-in", data=form, headers=origin).status_code == 429
    wrong = [it for it in caplog.messages if it == "A wrong operator token came from testclient."]
    assert len(wrong) == 5
    assert "guess-" not in caplog.text


@on_sqlite_only
def test_request_without_a_token_is_no_guess(hub):
    for _ in range(20):
        assert hub.http.get("/metrics").status_code == 401
    assert hub.http.get("/metrics", headers=AUTHORIZATION).status_code == 200


@on_sqlite_only
def test_scraping_goes_on_while_many_others_guess_and_forgives_no_guess(hub):
    transport = hub.http._transport
    assert hub.http.get("/metrics", headers=AUTHORIZATION).status_code == 200
    for number in range(FAILURES_OVERALL_MAX):
        transport.client = (f"10.0.{number}.1", 50000)
        hub.http.get("/metrics", headers={"Authorization": "Bearer a guess"})
    transport.client = ("10.1.0.1", 50000)
    assert hub.http.get("/metrics", headers=AUTHORIZATION).status_code == 429
    transport.client = ("testclient", 50000)
    for _ in range(FAILURES_FREE - 1):
        assert hub.http.get("/metrics", headers={"Authorization": "Bearer a guess"}).status_code == 401
        assert hub.http.get("/metrics", headers=AUTHORIZATION).status_code == 200
    hub.http.get("/metrics", headers={"Authorization": "Bearer a guess"})
    assert hub.http.get("/metrics", headers=AUTHORIZATION).status_code == 429
