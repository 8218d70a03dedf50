"""After a day of random faults every contact is as it should be; nothing is lost and nothing innocent has failed."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from app.models import OUTBOX
from tests.hubspot.conftest import HubSpot
from tests.hubspot.faulty_days import live_through


@settings(
    max_examples=2,
    deadline=None,
    database=None,
    # A smaller seed is no simpler day.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
@given(seed=st.integers(0, 2**32 - 1))
def test_day_of_random_faults_ends_with_every_contact_right(hubspot: HubSpot, seed: int) -> None:
    note(f"seed {seed}")
    hubspot.sandbox.reset()
    hubspot.provision()
    with hubspot.engine.begin() as connection:
        connection.execute(delete(OUTBOX.events))
        connection.execute(delete(OUTBOX.gate))
    live_through(hubspot, seed, spells=3, events=45, drivers=12)
