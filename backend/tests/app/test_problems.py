"""Every answer that is not what was asked for is a problem response that says what to do."""

from __future__ import annotations

import socket

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.main import create_app
from tests.app.conftest import SERVICE_KEY, Hub, on_sqlite_only, settings_for


@pytest.fixture(params=["sqlite", "postgresql"])
def lost_hub(request, tmp_path):
    """An application whose database is not there."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/missing/nerava.db"
    else:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            url = f"postgresql://nobody@127.0.0.1:{closed.getsockname()[1]}/nerava"
    codes = []
    app = create_app(settings_for(url), codes.append)
    with TestClient(app, raise_server_exceptions=False) as http:
        yield Hub(http, codes)


def test_without_its_database_every_route_is_unavailable_and_the_process_lives(lost_hub, caplog):
    http = lost_hub.http
    token = {"Authorization": "Bearer token"}
    grant = {"session_id": "s", "driver_id": "00000000-0000-4000-8000-000000000000", "energy_kwh": 1}
    grant |= {"ended_at": "2026-11-24T06:40:02Z"}
    verify = {"challenge_id": "00000000-0000-4000-8000-000000000000", "code": "123456"}
    redemption = {"merchant_id": "m", "amount": 1}
    answers = [
        http.post("/v1/auth/otp/start", json={"email": "driver@example.com"}),
        http.post("/v1/auth/otp/verify", json=verify),
        http.get("/v1/wallet", headers=token),
        http.post("/v1/wallet/passes", json={"pass_type": "apple"}, headers=token),
        http.post("/v1/nova/grants", json=grant, headers={"X-Service-Key": SERVICE_KEY}),
        http.post("/v1/nova/redemptions", json=redemption, headers=token | {"Idempotency-Key": "k"}),
        http.get("/readyz"),
    ]
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:nerava:problem:database-unavailable"
        assert answer.headers["retry-after"] == "1"
    assert http.get("/healthz").status_code == 200
    assert lost_hub.codes == []
    assert "driver@example.com" not in caplog.text


def test_a_request_succeeds_though_the_outbox_is_missing_and_the_loss_is_logged(hub, engine, caplog):
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE outbox_events"))
    driver = hub.sign_up(email="driver@example.com")
    assert hub.grant(driver).status_code == 201
    assert hub.wallet(driver)["balance"] == 78
    lost = [it for it in caplog.records if it.levelname == "ERROR" and "is lost" in it.getMessage()]
    assert len(lost) == 2
    assert "driver@example.com" not in caplog.text


@on_sqlite_only
def test_what_the_framework_refuses_is_a_problem_too(hub):
    answers = {
        404: hub.http.get("/v1/nothing"),
        405: hub.http.delete("/v1/wallet"),
        422: hub.http.post("/v1/auth/otp/start", content=b"{", headers={"Content-Type": "application/json"}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert answer.json()["detail"]
    assert answers[405].headers["allow"]


@on_sqlite_only
def test_a_body_without_its_content_type_is_told_which_to_send(hub):
    answer = hub.http.post("/v1/auth/otp/start", content=b'{"email": "driver@example.com"}')
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


@on_sqlite_only
def test_the_description_names_every_problem_and_resolves(hub):
    description = hub.http.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    for path, operations in description["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            for status, response in operation["responses"].items():
                assert list(response["content"]) == [
                    "application/json" if status.startswith("2") else "application/problem+json"
                ], (path, status)
    assert set(description["components"]["securitySchemes"]) == {"driver", "charger"}
    assert "HTTPValidationError" not in schemas
    for reference in _references(description):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
