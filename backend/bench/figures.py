"""A figure: what was measured in each round, beside its rival in the same round, and what it must reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Literal

Verdict = Literal["met", "short", "printed"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a ratio must reach; without a limit it is printed and not judged."""

    at_most: float | None = None
    at_least: float | None = None
    aim: str = ""

    def verdict(self, value: float) -> Verdict:
        # Judged as printed, to two decimals: nobody can tell 1.204 from 1.2 on a noisy machine.
        value = round(value, 2)
        if self.at_most is not None:
            return "met" if value <= self.at_most else "short"
        if self.at_least is not None:
            return "met" if value >= self.at_least else "short"
        return "printed"

    def __str__(self) -> str:
        limit = ""
        if self.at_most is not None:
            limit = f"≤ {self.at_most:g}"
        if self.at_least is not None:
            limit = f"≥ {self.at_least:g}"
        return ", ".join(it for it in (limit, self.aim) if it)


@dataclass(frozen=True, slots=True)
class Figure:
    """Ours over the rival's, round by round; its value is the median of the rounds' ratios."""

    what: str
    rival_name: str
    unit: str
    ours: Sequence[float]
    rival: Sequence[float]
    demand: Demand
    note: str = ""
    # Why it is short: a plan, a profile.
    evidence: str = ""

    @property
    def ratios(self) -> list[float]:
        return [ours / rival for ours, rival in zip(self.ours, self.rival, strict=True)]

    @property
    def value(self) -> float:
        return median(self.ratios)

    @property
    def verdict(self) -> Verdict:
        return self.demand.verdict(self.value)


@dataclass(frozen=True, slots=True)
class Count:
    """A number that is counted, not timed."""

    what: str
    value: float
    demand: Demand
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        return self.demand.verdict(self.value)


@dataclass(slots=True)
class Rounds:
    """What each contender came to, round by round."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> list[float]:
        return self.samples[name]

    def best(self, names: Sequence[str]) -> str:
        """Whose median is the highest."""
        return max(names, key=lambda name: median(self.samples[name]))


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """The interquartile range."""
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]
