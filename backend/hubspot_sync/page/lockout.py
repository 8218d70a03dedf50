"""Guessing the operator's token is slowed down: for the address that guesses, and for all of them together."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

from hubspot_sync.network import network_of

# So many may be typing errors.
FAILURES_FREE = 5
WAIT_FIRST = timedelta(minutes=1)
WAIT_MAX = timedelta(hours=1)
# Of all addresses together, one of these comes back every 36 s: against a long token that is nothing.
FAILURES_OVERALL_MAX = 100
OVERALL_WINDOW = timedelta(hours=1)
# At about two hundred bytes each. The bound on all addresses holds whatever is forgotten here.
ADDRESSES_MAX = 10_000


@dataclass(slots=True)
class _Guesser:
    failures: int
    failed_at: float
    locked_until: float


class Lockout:
    """Counts wrong tokens. Instants are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()
        # When each last showed the token: guesses from elsewhere are not to stop what scrapes metrics.
        self._shown_at: OrderedDict[str, float] = OrderedDict()
        # What is left for all; it fills up again as time passes.
        self._left = float(FAILURES_OVERALL_MAX)
        self._left_at = 0.0

    def wait(self, address: str, now: float) -> timedelta:
        """How long nothing from this address is looked at; zero when it may try."""
        guesser = self._guessers.get(network_of(address))
        seconds = guesser.locked_until - now if guesser is not None else 0.0
        has_token = now - self._shown_at.get(network_of(address), float("-inf")) <= WAIT_MAX.total_seconds()
        if not has_token and (left := self._refilled(now)) < 1:
            seconds = max(seconds, (1 - left) * _SECONDS_PER_FAILURE)
        return timedelta(seconds=max(0.0, seconds))

    def note_failure(self, address: str, now: float) -> None:
        self._left, self._left_at = max(0.0, self._refilled(now) - 1), now
        network = network_of(address)
        guesser = self._guessers.pop(network, None)
        if guesser is None or now - guesser.failed_at > WAIT_MAX.total_seconds():
            guesser = _Guesser(0, now, now)
        guesser.failures, guesser.failed_at = guesser.failures + 1, now
        if (over := guesser.failures - FAILURES_FREE) >= 0:
            guesser.locked_until = now + min(WAIT_FIRST * 2 ** min(over, 10), WAIT_MAX).total_seconds()
        self._guessers[network] = guesser
        if len(self._guessers) > ADDRESSES_MAX:
            self._guessers.popitem(last=False)

    def note_token(self, address: str, now: float) -> None:
        """What the address guessed stays counted: others may share it."""
        network = network_of(address)
        self._shown_at.pop(network, None)
        self._shown_at[network] = now
        if len(self._shown_at) > ADDRESSES_MAX:
            self._shown_at.popitem(last=False)

    def note_success(self, address: str) -> None:
        self._guessers.pop(network_of(address), None)

    def _refilled(self, now: float) -> float:
        return min(float(FAILURES_OVERALL_MAX), self._left + (now - self._left_at) / _SECONDS_PER_FAILURE)


_SECONDS_PER_FAILURE = OVERALL_WINDOW.total_seconds() / FAILURES_OVERALL_MAX
