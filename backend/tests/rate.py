"""How many of some moments lie within a second of each other: what a limit on requests per second is about."""

from __future__ import annotations

from collections.abc import Iterable


def most_in_a_second(moments: Iterable[float]) -> int:
    """The most of them in any second, wherever it begins."""
    ordered = sorted(moments)
    most, first = 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most
