"""A claim holds for a limited time: whoever outlives its lease sends nothing more and settles nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

# A request is given up after this long, so a lease that covers it covers the request.
REQUEST_DEADLINE = timedelta(seconds=10)
# Long enough for a request and a slow settle; short enough that a crash delays its events little.
LEASE = timedelta(seconds=20)
RENEW_EVERY = timedelta(seconds=5)


@dataclass(slots=True)
class Lease:
    """One claim's fence token, and the moment on this machine's monotonic clock when it ends.

    The end is counted from before the claim's statement was sent, so it is never later than the database's.
    """

    token: str
    ends_at: float
    clock: Callable[[], float] = field(default=time.monotonic)

    def covers(self, duration: timedelta) -> bool:
        """Whether something that takes `duration` at most would end within the lease."""
        return self.clock() + duration.total_seconds() <= self.ends_at

    def extend(self, from_moment: float) -> None:
        self.ends_at = from_moment + LEASE.total_seconds()
