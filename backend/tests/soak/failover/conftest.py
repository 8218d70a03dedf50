"""Load, sandbox and two workers on the servers that a module's `url` leads to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.database import create_database_engine
from hubspot_sandbox import Sandbox
from tests.conftest import migrate
from tests.hubspot.conftest import HubSpot, environment_for, settings_for
from tests.soak.chaos.fleet import Fleet
from tests.soak.chaos.history import note_moves
from tests.soak.chaos.load import Load
from tests.soak.test_chaos import report, track_earned

__all__ = ["report"]
LOAD_SECONDS = 4.0
_SEED = 20


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    migrate(url)
    engine = create_database_engine(url)
    note_moves(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def load(engine: Engine) -> Load:
    load = Load(engine, _SEED, "lifetime_earned", track_earned)
    load.prepare()
    return load


@pytest.fixture
def sandbox(engine: Engine) -> Iterator[Sandbox]:
    with Sandbox(seed=_SEED, rate_max=100_000) as sandbox:
        HubSpot(engine, sandbox, settings_for(sandbox)).provision()
        yield sandbox


@pytest.fixture
def fleet(url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[Fleet]:
    """Two workers."""
    environment = environment_for(sandbox)
    fleet = Fleet([], [url] * 2, tmp_path, ["-m", "app.cli", "worker"], environment)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.kill_all()


def earned(sandbox: Sandbox) -> dict[str, int]:
    contacts = [contact["properties"] for contact in sandbox.contacts()]
    return {contact["nerava_user_id"]: int(contact["nerava_lifetime_earned"]) for contact in contacts}
