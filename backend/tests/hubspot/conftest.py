"""The real worker, over real HTTP, against the sandbox: `hubspot` tracks events, delivers them, and reads contacts."""

from __future__ import annotations

import asyncio
import copy
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import pytest
from sqlalchemy import Engine, Row, select
from sqlalchemy.orm import Session

from app.database import create_database_engine
from app.events import CATALOG
from app.models import OUTBOX
from app.services.hubspot import track_event
from hubspot_sandbox import Sandbox
from hubspot_sync.delivery import LiveDelivery
from hubspot_sync.integration import Integration
from hubspot_sync.moves import claimed_types
from hubspot_sync.provisioning import carry_out, plan_provisioning
from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox.claiming.newer import Newer, read_newer
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.gate.row import GateStatus, read_gate
from sqlalchemy_outbox.lease import LEASE, Lease
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Outcome
from tests.outbox.queue import LongestWait, Queue

PORTAL_ID = "12345678"
# Beyond every backoff and lease.
LONG = timedelta(minutes=10)
SIGNED_UP = {"auth_provider": "otp", "created_at": "2026-11-24T18:00:00Z"}


@pytest.fixture(scope="session")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One for all tests: to compile each statement anew takes a third of their time."""
    engine = create_database_engine(f"sqlite:///{tmp_path_factory.mktemp('hubspot') / 'nerava.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def database_url(_engine: Engine, _migrated_file: Path) -> Iterator[str]:
    """One database is enough here: what differs between the two is the outbox's, and proven there."""
    file = Path(str(_engine.url.database))
    shutil.copy(_migrated_file, file)
    yield f"sqlite:///{file}"
    _engine.dispose()
    for left in file.parent.iterdir():
        left.unlink()


@pytest.fixture
def engine(database_url: str, _engine: Engine) -> Iterator[Engine]:
    if database_url == str(_engine.url):
        yield _engine
    else:
        engine = create_database_engine(database_url)
        yield engine
        engine.dispose()


@pytest.fixture(scope="session")
def _sandbox() -> Iterator[Sandbox]:
    with Sandbox(seed=1, rate_max=10_000) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_sandbox: Sandbox) -> Sandbox:
    """A fresh HubSpot account without our properties."""
    _sandbox.reset()
    return _sandbox


@pytest.fixture(autouse=True)
def _concurrent_writes_settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("classification.CONFLICT_WAIT", "classification.LOCK_WAIT", "claim_delivery.CONFLICT_WAIT"):
        monkeypatch.setattr(f"hubspot_sync.{place}", timedelta(milliseconds=1))


class HasUrl(Protocol):
    """What can stand in HubSpot's place."""

    @property
    def url(self) -> str: ...


def settings_for(sandbox: HasUrl, **changes: object) -> HubSpotSettings:
    values: dict[str, object] = {
        "hubspot_enabled": True,
        "hubspot_send_live": True,
        "hubspot_private_app_token": "pat-na1-0",
        "hubspot_portal_id": PORTAL_ID,
        "hubspot_base_url": sandbox.url,
        "hubspot_requests_per_second": 100,
    }
    return HubSpotSettings(**(values | changes))


def environment_for(sandbox: HasUrl, **changes: str) -> dict[str, str]:
    """What `settings_for` sets, for a process of its own."""
    values = {
        "HUBSPOT_ENABLED": "true",
        "HUBSPOT_SEND_LIVE": "true",
        "HUBSPOT_PRIVATE_APP_TOKEN": "pat-na1-0",
        "HUBSPOT_PORTAL_ID": PORTAL_ID,
        "HUBSPOT_BASE_URL": sandbox.url,
        "HUBSPOT_REQUESTS_PER_SECOND": "100",
    }
    return values | changes


@dataclass
class HubSpot:
    """Both ends: what Nerava tracks, and what HubSpot has."""

    engine: Engine
    sandbox: Sandbox
    settings: HubSpotSettings
    queue: Queue = field(init=False)

    def __post_init__(self) -> None:
        self.queue = Queue(self.engine, OUTBOX, tuple(claimed_types(CATALOG)))

    @property
    def integration(self) -> Integration:
        return Integration(self.settings, OUTBOX, CATALOG, self.engine)

    def track(self, event_type: str, payload: Mapping[str, object]) -> UUID:
        with Session(self.engine) as db, db.begin():
            return track_event(db, event_type, payload)

    def sign_up(self, user_id: str, **payload: object) -> UUID:
        return self.track("driver_signed_up", {"user_id": user_id, **SIGNED_UP, **payload})

    def earn(self, user_id: str, total: int, **payload: object) -> UUID:
        earned = {"amount": 1, "earned_at": "2026-11-24T19:00:00Z", "lifetime_earned": total, "new_balance": total}
        return self.track("nova_earned", {"user_id": user_id, **earned, **payload})

    def provision(self) -> None:
        asyncio.run(self._provision())

    async def _provision(self) -> None:
        gate = Gate(OUTBOX, self.engine, 1000)
        await gate.prepare()
        async with self.integration.client() as client:
            plan = await plan_provisioning(client, gate, CATALOG)
            async for _ in carry_out(plan, client, gate, CATALOG):
                pass

    def deliver(self) -> None:
        """Run a worker until nothing more is due or the gate is shut."""
        asyncio.run(self.deliver_in_this_loop())

    async def deliver_in_this_loop(self) -> None:
        async with self.integration.worker(random=LongestWait()) as worker:
            await worker.drain()

    def deliver_one_claim(self, limit: int = 50, *, is_settled: bool = True) -> None:
        """What a worker claims first reaches HubSpot, and is settled; or the worker dies, and another one notices."""
        token, events = self.queue.claim(limit=limit)
        outcomes = asyncio.run(self._deliver_unsettled(Claim(Lease(token, math.inf), events)))
        if is_settled:
            self.queue.settle_each(token, events, outcomes)
            return
        self.queue.pass_time(LEASE + timedelta(seconds=1))
        self.queue.charge_lost_leases()
        self.queue.pass_time(LONG)

    async def _deliver_unsettled(self, claim: Claim) -> Mapping[int, Outcome]:
        gate = self.integration.gate()
        await gate.prepare()
        async with self.integration.client() as client:
            delivery = LiveDelivery(client, CATALOG, PORTAL_ID, daily_reserve=0, random=LongestWait())
            return await delivery(replace(claim, read_newer=self._read_newer), gate)

    async def _read_newer(self, first: Event, before: int | None) -> list[Newer]:
        with self.engine.connect() as connection:
            return read_newer(connection, OUTBOX, first, before)

    @contextmanager
    def one_worker(self) -> Iterator[Callable[[], None]]:
        """Deliveries by the same worker, which remembers what befell the ones before."""
        with asyncio.Runner() as runner:
            context = self.integration.worker(random=LongestWait())
            worker = runner.run(context.__aenter__())
            try:
                yield lambda: runner.run(worker.drain())
            finally:
                runner.run(context.__aexit__(None, None, None))

    def event_ids(self) -> list[UUID]:
        c = OUTBOX.events.c
        with self.engine.connect() as connection:
            return list(connection.execute(select(c.event_id).order_by(c.id)).scalars())

    def row(self, event_id: UUID) -> Row[Any]:
        with self.engine.connect() as connection:
            return connection.execute(select(OUTBOX.events).where(OUTBOX.events.c.event_id == event_id)).one()

    def is_delivered(self, event_id: UUID) -> bool:
        return self.row(event_id).processed_at is not None

    def deliveries(self) -> list[tuple[Row[Any], list[str]]]:
        """What was kept of every request that carried events, in order, with what it came to for each event."""
        kept, links = OUTBOX.records.deliveries, OUTBOX.records.delivery_events
        with self.engine.connect() as connection:
            linked = connection.execute(select(links).order_by(links.c.event_id)).all()
            return [
                (row, [it.outcome for it in linked if it.delivery_id == row.id])
                for row in connection.execute(select(kept).order_by(kept.c.id))
            ]

    def gate(self) -> GateStatus:
        with self.engine.connect() as connection:
            return read_gate(connection, OUTBOX)

    def contact(self, user_id: str) -> dict[str, str] | None:
        found = self.sandbox.contact(nerava_user_id=user_id)
        return None if found is None else found["properties"]

    def upserts(self) -> list[dict[str, Any]]:
        """The upsert requests that HubSpot received, oldest first."""
        return [it for it in self.sandbox.requests() if it["path"].endswith("/batch/upsert")]


@pytest.fixture
def bare_hubspot(engine: Engine, sandbox: Sandbox) -> HubSpot:
    """An account in which nobody has provisioned our properties."""
    return HubSpot(engine, sandbox, settings_for(sandbox))


@pytest.fixture(scope="session")
def _provisioned(_sandbox: Sandbox, _migrated_file: Path) -> dict[str, Any]:
    """The contacts' schema as our provisioning leaves it, by some twenty requests: once instead of for each test."""
    file = shutil.copy(_migrated_file, _migrated_file.with_name("provisioned.db"))
    engine = create_database_engine(f"sqlite:///{file}")
    _sandbox.reset()
    HubSpot(engine, _sandbox, settings_for(_sandbox)).provision()
    engine.dispose()
    return _sandbox.run(lambda account: copy.deepcopy(vars(account.schema)))


@pytest.fixture
def hubspot(_provisioned: dict[str, Any], bare_hubspot: HubSpot) -> HubSpot:
    """An account that has our properties."""
    bare_hubspot.sandbox.run(lambda account: vars(account.schema).update(copy.deepcopy(_provisioned)))
    return bare_hubspot


@pytest.fixture
def terminal(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are run on this database."""
    monkeypatch.setenv("DATABASE_URL", database_url)


@pytest.fixture
def dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOT_ENABLED", "true")


@pytest.fixture
def live(dry_run: None, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setenv("HUBSPOT_SEND_LIVE", "true")
    monkeypatch.setenv("HUBSPOT_BASE_URL", sandbox.url)
    monkeypatch.setenv("HUBSPOT_PRIVATE_APP_TOKEN", "pat-na1-0")
    monkeypatch.setenv("HUBSPOT_PORTAL_ID", "12345678")
    monkeypatch.setenv("HUBSPOT_REQUESTS_PER_SECOND", "100")
    return sandbox
