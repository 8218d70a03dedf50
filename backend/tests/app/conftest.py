"""Nerava as its clients see it: real requests to the application on a real database, codes by a recording sender."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select

from app.main import create_app
from app.models import OUTBOX
from app.otp import OneTimeCode
from app.settings import Settings

SERVICE_KEY = "charging-network-key"
T = TypeVar("T")

# For rules that are kept before the database is asked.
on_sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@dataclass(frozen=True)
class SignedInDriver:
    id: str
    headers: dict[str, str]


class Hub:
    """A charging hub: drivers with the application in their hands, and the network's chargers."""

    def __init__(self, http: TestClient, codes: list[OneTimeCode]) -> None:
        self.http = http
        self.codes = codes

    def start(self, **address: str) -> OneTimeCode:
        answer = self.http.post("/v1/auth/otp/start", json=address)
        assert answer.status_code == 202, answer.text
        return next(it for it in self.codes if str(it.challenge_id) == answer.json()["challenge_id"])

    def verify(self, challenge: OneTimeCode, code: str | None = None) -> Any:
        body = {"challenge_id": str(challenge.challenge_id), "code": code or challenge.code}
        return self.http.post("/v1/auth/otp/verify", json=body)

    def sign_up(self, **address: str) -> SignedInDriver:
        answer = self.verify(self.start(**(address or {"email": f"{uuid4().hex}@example.com"})))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return SignedInDriver(body["driver_id"], {"Authorization": f"Bearer {body['access_token']}"})

    def install_pass(self, driver: SignedInDriver, pass_type: str = "apple") -> Any:
        return self.http.post("/v1/wallet/passes", json={"pass_type": pass_type}, headers=driver.headers)

    def grant(self, driver: SignedInDriver, session_id: str | None = None, **fields: object) -> Any:
        body = {
            "session_id": uuid4().hex if session_id is None else session_id,
            "driver_id": driver.id,
            "energy_kwh": "7.78",
            "ended_at": "2026-11-24T06:40:02.123Z",
        }
        # Not json=…: the client cannot write a lone surrogate.
        headers = {"X-Service-Key": SERVICE_KEY, "Content-Type": "application/json"}
        return self.http.post("/v1/nova/grants", content=json.dumps(body | fields), headers=headers)

    def redeem(self, driver: SignedInDriver, amount: int, key: str = "", merchant_id: str = "corner-bakery") -> Any:
        headers = driver.headers | {"Idempotency-Key": key or uuid4().hex}
        body = {"merchant_id": merchant_id, "amount": amount}
        return self.http.post("/v1/nova/redemptions", json=body, headers=headers)

    def wallet(self, driver: SignedInDriver) -> dict[str, Any]:
        answer = self.http.get("/v1/wallet", headers=driver.headers)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


def settings_for(database_url: str, charger_service_key: str = SERVICE_KEY) -> Settings:
    return Settings(_env_file=None, database_url=database_url, charger_service_key=charger_service_key)


@pytest.fixture
def hub(database_url: str) -> Iterator[Hub]:
    codes: list[OneTimeCode] = []
    app = create_app(settings_for(database_url), codes.append)
    with TestClient(app, raise_server_exceptions=False) as http:
        yield Hub(http, codes)


@pytest.fixture
def events(engine: Engine) -> Callable[[], list[tuple[str, dict[str, Any]]]]:
    """Reads the outbox: each event's type and payload, in order; all of them fit to be delivered."""

    def read() -> list[tuple[str, dict[str, Any]]]:
        c = OUTBOX.events.c
        with engine.connect() as connection:
            rows = connection.execute(select(c.event_type, c.payload, c.last_error).order_by(c.id)).all()
        assert [it.last_error for it in rows] == [None] * len(rows)
        return [(it.event_type, json.loads(it.payload)) for it in rows]

    return read


def at_once(count: int, act: Callable[[int], T]) -> list[T]:
    """Run `act` in `count` threads that start together, and return what each came to."""
    barrier = Barrier(count)

    def run(number: int) -> T:
        barrier.wait(timeout=10)
        return act(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))
