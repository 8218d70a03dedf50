"""The application is ready while it can serve requests; the worker's state is told beside that."""

from __future__ import annotations

import time

import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from sqlalchemy import insert, text

from app.main import create_app
from app.migrations import head_revision
from app.models import OUTBOX
from sqlalchemy_outbox.clock import DatabaseNow
from tests.app.conftest import Hub, settings_for
from tests.conftest import BACKEND


def test_a_migrated_application_is_ready_and_tells_of_worker_and_gate(hub):
    answer = hub.http.get("/readyz")
    assert answer.status_code == 200
    body = answer.json()
    assert body["status"] == "ready"
    assert body["worker"]["state"] == "disabled"
    assert "HUBSPOT_ENABLED" in body["worker"]["reason"]
    assert body["gate"]["state"] == "open"


def test_a_held_gate_takes_no_application_out_of_service(hub, engine):
    with engine.begin() as connection:
        connection.execute(OUTBOX.gate.delete())
        held = {"id": 1, "state": "held", "reason": "token revoked"}
        until = {"until": DatabaseNow(60), "next_slot_at": DatabaseNow()}
        connection.execute(insert(OUTBOX.gate).values(held | until))
    answer = hub.http.get("/readyz")
    assert answer.status_code == 200
    gate = answer.json()["gate"]
    assert gate["state"] == "held"


@pytest.mark.parametrize("revision", ["base", "0001"])
def test_an_application_whose_database_lacks_migrations_is_not_ready_and_says_what_to_run(hub, database_url, revision):
    config = Config(BACKEND / "alembic.ini")
    config.attributes["database_url"] = database_url
    command.downgrade(config, revision)
    answer = hub.http.get("/readyz")
    assert answer.status_code == 503
    assert "alembic upgrade head" in answer.json()["detail"]
    assert hub.http.get("/healthz").status_code == 200


def test_a_database_of_a_newer_release_is_not_ready_and_is_not_to_be_upgraded(hub, engine):
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    answer = hub.http.get("/readyz")
    assert answer.status_code == 503
    assert "9999" in answer.json()["detail"]
    assert str(head_revision()) in answer.json()["detail"]


def test_a_worker_that_does_not_run_is_unavailable_with_the_reason(hub):
    answer = hub.http.get("/readyz/worker")
    assert answer.status_code == 503
    assert "HUBSPOT_ENABLED" in answer.json()["detail"]


def test_an_enabled_worker_starts_with_the_application_and_delivers(database_url, engine):
    settings = settings_for(database_url).model_copy(update={"hubspot_enabled": True})
    codes = []
    with TestClient(create_app(settings, codes.append)) as http:
        Hub(http, codes).sign_up()
        deadline = time.monotonic() + 10
        while _unprocessed(engine):
            assert time.monotonic() < deadline, "the event was not delivered"
            time.sleep(0.02)
        assert http.get("/readyz/worker").json() == {"state": "running", "reason": ""}
        assert http.get("/readyz").json()["worker"]["state"] == "running"


def test_a_live_worker_without_its_token_does_not_start_and_says_what_to_set(database_url):
    settings = settings_for(database_url).model_copy(update={"hubspot_enabled": True, "hubspot_send_live": True})
    with TestClient(create_app(settings)) as http:
        assert http.get("/readyz").status_code == 200
        answer = http.get("/readyz/worker")
    assert answer.status_code == 503
    assert "HUBSPOT_PRIVATE_APP_TOKEN" in answer.json()["detail"]


def _unprocessed(engine):
    with engine.connect() as connection:
        return connection.scalar(text("SELECT COUNT(*) FROM outbox_events WHERE processed_at IS NULL"))
