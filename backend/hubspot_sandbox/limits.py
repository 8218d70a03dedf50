"""HubSpot's two limits: a rolling ten seconds per token, and a day that ends at midnight of the account's time zone."""

from collections import deque
from datetime import datetime
from zoneinfo import ZoneInfo

WINDOW_SECONDS = 10.0


class RollingLimit:
    """At most `maximum` requests in any ten seconds; a refused request does not count."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._taken: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Whether the request may pass; if so it is counted."""
        if self.remaining(now) <= 0:
            return False
        self._taken.append(now)
        return True

    def remaining(self, now: float) -> int:
        while self._taken and self._taken[0] <= now - WINDOW_SECONDS:
            self._taken.popleft()
        return self.maximum - len(self._taken)


class DailyLimit:
    """At most `maximum` requests a day for the whole account."""

    def __init__(self, maximum: int, time_zone: ZoneInfo) -> None:
        self.maximum = maximum
        self.used = 0
        self._time_zone = time_zone
        self._day = ""

    def take(self, now: float) -> bool:
        """Whether the request may pass; if so it is counted."""
        if self.remaining(now) <= 0:
            return False
        self.used += 1
        return True

    def remaining(self, now: float) -> int:
        day = datetime.fromtimestamp(now, self._time_zone).date().isoformat()
        if day != self._day:
            self._day, self.used = day, 0
        return self.maximum - self.used
