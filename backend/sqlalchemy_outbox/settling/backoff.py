"""When a charged event is due again: full jitter, so that events which failed together do not return together."""

from __future__ import annotations

from datetime import timedelta
from random import Random

BACKOFF_BASE = timedelta(seconds=2)
BACKOFF_FACTOR = 4
BACKOFF_MAX = timedelta(minutes=5)
# No event is pushed back further, so what seems to be was stored by a clock that was wrong (see `corrections`). The
# longest wait is that of a contact on which HubSpot stays silent: 60 s, and half as much again by chance.
WAIT_MAX = timedelta(seconds=90)


def backoff(attempt_count: int, random: Random) -> timedelta:
    """Return the wait after the `attempt_count`-th failed attempt (1 or more)."""
    longest: timedelta = min(BACKOFF_BASE * BACKOFF_FACTOR ** (attempt_count - 1), BACKOFF_MAX)
    return longest * random.random()
