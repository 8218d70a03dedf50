"""The page as an attacker's tools and an operator's browser meet it: mounted in Nerava, on a real database."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.events import CATALOG
from app.main import create_app
from app.models import OUTBOX
from app.services.hubspot import track_event
from app.settings import OPERATOR_PAGE, Settings
from hubspot_sandbox import Sandbox
from hubspot_sync.integration import Integration
from hubspot_sync.provisioning import carry_out, plan_provisioning
from sqlalchemy_outbox.gate.gate import Gate

TOKEN = "operators-token-of-the-tests"
SIGNED_UP = {"auth_provider": "otp", "created_at": "2026-11-24T18:00:00Z"}


@pytest.fixture
def database_url(migrated_sqlite_url: str) -> str:
    """One database is enough here: what differs between the two is the outbox's, and proven there."""
    return migrated_sqlite_url


def settings_for(database_url: str, **changes: object) -> Settings:
    values: dict[str, object] = {"database_url": database_url, "operator_token": TOKEN}
    return Settings(_env_file=None, **(values | changes))


def live_settings(database_url: str, sandbox: Sandbox, **changes: object) -> Settings:
    values: dict[str, object] = {
        "hubspot_enabled": True,
        "hubspot_send_live": True,
        "hubspot_private_app_token": "pat-na1-0",
        "hubspot_portal_id": "12345678",
        "hubspot_base_url": sandbox.url,
        "hubspot_requests_per_second": 100,
        "hubspot_batch_size": 100,
    }
    return settings_for(database_url, **(values | changes))


def track(engine: Engine, event_type: str, *payloads: Mapping[str, object]) -> list[UUID]:
    with Session(engine) as db, db.begin():
        return [track_event(db, event_type, it) for it in payloads]


def fail(engine: Engine, user_id: str = "driver-1", **payload: object) -> UUID:
    """An event that was born failed, because its payload does not fit."""
    [event_id] = track(engine, "driver_signed_up", {"user_id": user_id, **payload})
    return event_id


def provision(settings: Settings, engine: Engine) -> None:
    """Create our properties in the account; in a thread, because a browser's loop runs in this one."""

    async def carry_out_plan() -> None:
        gate = Gate(OUTBOX, engine, 1000)
        await gate.prepare()
        async with Integration(settings, OUTBOX, CATALOG, engine).client() as client:
            async for _ in carry_out(await plan_provisioning(client, gate, CATALOG), client, gate, CATALOG):
                pass

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, carry_out_plan()).result()


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Where the page is, on a real server in a thread."""
    app = create_app(settings, lambda _: None)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}{OPERATOR_PAGE}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Client:
    """A browser without a screen: it keeps cookies, says where its requests come from, and fills in forms."""

    http: TestClient
    origin: Mapping[str, str] = field(default_factory=lambda: {"Origin": "http://testserver"})

    def get(self, path: str, **headers: str) -> Any:
        return self.http.get(f"{OPERATOR_PAGE}{path}", headers=headers, follow_redirects=False)

    def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: object) -> Any:
        sent_from = self.origin if headers is None else headers
        return self.http.post(f"{OPERATOR_PAGE}{path}", data=fields, headers=dict(sent_from), follow_redirects=False)

    def sign_in(self, token: str = TOKEN, name: str = "Ada", **fields: object) -> Any:
        return self.post("/sign-in", name=name, token=token, **fields)

    def form_token(self) -> str:
        found = re.search(r'name="form_token" value="(\w+)"', self.get("/events").text)
        assert found
        return found[1]

    def act(self, path: str, **fields: object) -> Any:
        """What a form of the page would send."""
        return self.post(path, form_token=self.form_token(), **fields)


@pytest.fixture
def open_page(database_url: str) -> Iterator[Callable[..., Client]]:
    """Starts Nerava with these settings, for a client at this address."""
    with ExitStack() as stack:

        def start(address: str = "10.0.0.1", **changes: object) -> Client:
            app = create_app(settings_for(database_url, **changes), lambda _: None)
            return Client(stack.enter_context(TestClient(app, client=(address, 50000), raise_server_exceptions=False)))

        yield start


@pytest.fixture
def client(open_page: Callable[..., Client]) -> Client:
    return open_page()


@pytest.fixture
def operator(client: Client) -> Client:
    """A client that is signed in."""
    assert client.sign_in().status_code == 303
    return client
