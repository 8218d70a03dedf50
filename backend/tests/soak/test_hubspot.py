"""Long proofs of the delivery to HubSpot: weeks of random faults, and the allowed rate used without a refusal."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from app.models import OUTBOX
from hubspot_sandbox import Sandbox
from hubspot_sandbox.account import Account
from hubspot_sandbox.switches import Switches
from tests.hubspot.conftest import HubSpot, _concurrent_writes_settle_at_once, settings_for  # noqa: F401  # A fixture.
from tests.hubspot.faulty_days import live_through

RATE_MAX, WINDOW_SECONDS = 190, 10
CONTACTS = 100_000


@pytest.fixture
def database_url(migrated_sqlite_url: str) -> str:
    return migrated_sqlite_url


def random_switches(random: Random) -> Switches:
    """What nobody knows of HubSpot, one way or the other."""
    choices = {
        name: random.choice([False, True] if it.annotation is bool else list(get_args(it.annotation)))
        for name, it in Switches.model_fields.items()
    }
    return Switches(**choices)


@settings(
    max_examples=8,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32 - 1))
def test_weeks_of_random_faults_end_with_every_contact_right(engine: Engine, seed: int) -> None:
    note(f"seed {seed}")
    print(f"seed {seed}")  # noqa: T201  # To play it again.
    with engine.begin() as connection:
        connection.execute(delete(OUTBOX.events))
        connection.execute(delete(OUTBOX.gate))
    with Sandbox(seed=seed, rate_max=100_000, switches=random_switches(Random(seed))) as sandbox:
        hubspot = HubSpot(engine, sandbox, settings_for(sandbox))
        hubspot.provision()
        live_through(hubspot, seed, spells=25, events=500, drivers=60)


def store_many(account: Account) -> None:
    for n in range(CONTACTS):
        account.contacts.create({"email": f"someone-{n}@example.org"}, account.clock())


def seconds_starved() -> float:
    """For how long this process's threads, together, were ready to run and had to wait for a processor."""
    return sum(int(file.read_text().split()[1]) for file in Path("/proc/self/task").glob("*/schedstat")) / 1e9


def test_allowed_rate_is_used_to_95_per_cent_and_never_exceeded(engine: Engine) -> None:
    """Beside 100,000 contacts, so that the sandbox is not what limits it."""
    with Sandbox(seed=1, rate_max=RATE_MAX) as sandbox:
        sandbox.run(store_many)
        hubspot = HubSpot(
            engine,
            sandbox,
            settings_for(
                sandbox,
                hubspot_requests_per_second=RATE_MAX / WINDOW_SECONDS,
                hubspot_concurrency=8,
                hubspot_batch_size=1,
            ),
        )
        hubspot.provision()
        for n in range(700):
            hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com")
        # What provisioning used is in no later window.
        sandbox.run(lambda account: account.rolling_limit("pat-na1-0").__init__(RATE_MAX))
        starved_before = seconds_starved()
        hubspot.deliver()
        starved = seconds_starved() - starved_before
        requests = hubspot.upserts()
        assert {it["status"] for it in requests} == {200}
        moments = [datetime.fromisoformat(it["time"]).timestamp() for it in requests]
        assert moments == sorted(moments)
        took = moments[-1] - moments[0]
        used = (len(moments) - 1) / (took * RATE_MAX / WINDOW_SECONDS)
        print(f"{used:.1%} of the allowed requests used over {took:.0f} s, {starved:.1f} of them starved")  # noqa: T201
        # What a busy machine keeps us from is not ours to use: slots that pass meanwhile are lost.
        assert len(moments) - 1 >= 0.95 * (took - starved) * RATE_MAX / WINDOW_SECONDS
