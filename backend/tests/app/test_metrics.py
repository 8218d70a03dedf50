"""/metrics is the operator's: nothing without the token, and nothing that names a person with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.main import create_app
from tests.app.conftest import Hub, on_sqlite_only, settings_for

TOKEN = "operators-token"
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
