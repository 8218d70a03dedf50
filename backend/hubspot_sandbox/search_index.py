"""What search finds: the contacts as they were a while ago."""

from collections import deque
from datetime import timedelta
from typing import Generic, TypeVar

Record = TypeVar("Record")


class SearchIndex(Generic[Record]):
    def __init__(self, lag: timedelta) -> None:
        self.lag_seconds = lag.total_seconds()
        self._found: dict[int, Record] = {}
        self._coming: deque[tuple[float, int, Record | None]] = deque()

    def note(self, record_id: int, contact: Record | None, now: float) -> None:
        """`contact`, or that there is none any more, will be found from now on plus the lag."""
        self._coming.append((now + self.lag_seconds, record_id, contact))

    def forget_last(self, count: int) -> None:
        """The last `count` notes never happened."""
        for _ in range(count):
            self._coming.pop()

    def contacts(self, now: float) -> list[Record]:
        """Oldest first."""
        self.catch_up(now)
        return list(self._found.values())

    def catch_up(self, now: float) -> None:
        while self._coming and self._coming[0][0] <= now:
            _, record_id, contact = self._coming.popleft()
            if contact is None:
                self._found.pop(record_id, None)
            else:
                self._found[record_id] = contact

    def clear(self) -> None:
        self._found.clear()
        self._coming.clear()
