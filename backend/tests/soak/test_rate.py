"""Guarantee 8 on real processes that are stopped and go on: few more requests than the rate leave in any second."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random, SystemRandom

import pytest
from sqlalchemy import create_engine

from tests.outbox.conftest import METADATA, OUTBOX
from tests.outbox.queue import Queue
from tests.rate import most_in_a_second
from tests.soak.chaos.destination import run_destination
from tests.soak.chaos.fleet import Fleet, run_fleet

_SECONDS = 20
# Some shorter than an interval, some longer than a second; none as long as a lease.
_STOPPED_SECONDS = (0.02, 2.5)


@pytest.mark.parametrize("rate", [8, 20])
def test_processes_that_are_stopped_and_go_on_keep_to_the_rate_together(
    postgres_url: str, tmp_path: Path, rate: int
) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or SystemRandom().randrange(2**32))
    engine = create_engine(postgres_url)
    METADATA.create_all(engine)
    # More than the fleet can send meanwhile.
    Queue(engine, OUTBOX).put(*(f"driver-{n}" for n in range(rate * _SECONDS * 2)))
    own = {"BATCH_SIZE": "1", "REQUESTS_PER_SECOND": str(rate)}
    with run_destination(seed) as destination:
        environment = {"DESTINATION_URL": destination.url, **own}
        with run_fleet(postgres_url, tmp_path, ["-m", "tests.soak.chaos.worker"], environment) as fleet:
            stops = stop_now_and_then(fleet, Random(seed))
    engine.dispose()
    left = [request.left_at for request in destination.journal]
    assert stops > 10
    assert len(left) > rate * _SECONDS / 4, "so few were sent that they say nothing of the rate"
    assert most_in_a_second(left) <= 1.1 * rate + 2, f"seed {seed}"


def stop_now_and_then(fleet: Fleet, random: Random) -> int:
    """One worker after the other, sometimes two at once; how often that was."""
    ends_at, stops = time.monotonic() + _SECONDS, 0
    while time.monotonic() < ends_at:
        stopped = random.sample(fleet.present, random.choice([1, 1, 2]))
        for worker in stopped:
            worker.signal(signal.SIGSTOP)
        time.sleep(random.uniform(*_STOPPED_SECONDS))
        for worker in stopped:
            worker.signal(signal.SIGCONT)
        stops += 1
        time.sleep(random.uniform(0.05, 0.5))
    return stops
