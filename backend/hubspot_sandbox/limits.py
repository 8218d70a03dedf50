"""HubSpot's limits: rolling windows, and a day that ends at midnight of the account's time zone."""

from collections import deque
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

WINDOW_SECONDS = 10.0


SEARCH_WINDOW_SECONDS = 1.0


class RollingLimit:
    """At most `maximum` requests in any window; a refused request does not count."""

    def __init__(self, maximum: int, window_seconds: float = WINDOW_SECONDS) -> None:
        self.maximum = maximum
        self._window_seconds = window_seconds
        self._taken: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Whether the request may pass; if so it is counted."""
        if self.remaining(now) <= 0:
            return False
        self._taken.append(now)
        return True

    def remaining(self, now: float) -> int:
        while self._taken and self._taken[0] <= now - self._window_seconds:
            self._taken.popleft()
        return max(0, self.maximum - len(self._taken))


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
        return max(0, self.maximum - self.used)

    def change(self, maximum: int, time_zone: ZoneInfo) -> None:
        """From now on; what was used of the day stays used."""
        self.maximum, self._time_zone = maximum, time_zone

    def resets_at(self, now: float) -> float:
        """The next midnight of the account's time zone."""
        today = datetime.fromtimestamp(now, self._time_zone).date()
        midnight = datetime.combine(today + timedelta(days=1), datetime.min.time(), self._time_zone)
        return midnight.timestamp()
