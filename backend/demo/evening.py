"""An evening at a charging hub, drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import cycle
from random import Random

from demo.script import Action, Charge, InstallPass, Leave, Part, Redeem, Script, SignUp, driver, event_type_of

DRIVERS = 360
EVENTS = 2800
SEED = 2026

_BEGINS_AT = datetime(2026, 6, 12, 17, 0, tzinfo=UTC)
_MERCHANTS = ("corner-bakery", "night-owl-coffee", "hub-cinema", "green-grocer", "car-wash")
_REDEMPTION_STEP = 10
# Of so many drivers one deletes the account in the end; the fourth is the first.
_LEAVES_EVERY, _LEAVES_FIRST = 40, 4


def write_evening(drivers: int = DRIVERS, events: int = EVENTS, seed: int = SEED) -> Script:
    """A script of `drivers` that raises at least `events` events: they keep coming back until it does.

    First redemptions come on top, so that a script is a little larger than asked for.
    """
    random = Random(seed)
    visitors = [_Visitor(number, random) for number in range(1, drivers + 1)]
    planned = sum(visitor.arrive() for visitor in visitors)
    comers = cycle(visitors)
    while planned < events:
        planned += next(comers).visit()
    return Script("an evening at a charging hub", (tuple(it.part() for it in visitors),))


class _Visitor:
    """One driver's evening while it is written. They know their balance, as their phone would."""

    def __init__(self, number: int, random: Random) -> None:
        self._number = number
        self._random = random
        self._actions: list[Action] = []
        self._balance = 0
        self._sessions = 0
        self._redemptions = 0
        self._now = _BEGINS_AT + timedelta(minutes=random.uniform(0, 90))

    def arrive(self) -> int:
        """Sign up; nine in ten install a pass, a few of them on two phones. Returns the events this raises."""
        passes = self._random.sample(("apple", "google"), self._random.choices((0, 1, 2), (10, 80, 10))[0])
        return self._do([SignUp(), *map(InstallPass, passes)])

    def visit(self) -> int:
        """Charge for a while, and perhaps spend what that earned. Returns the events this raises."""
        actions = list(self._charge())
        if self._random.random() < 0.5:
            actions += self._spend()
        return self._do(actions)

    def part(self) -> Part:
        leaves = self._number % _LEAVES_EVERY == _LEAVES_FIRST
        return Part(driver(self._number), (*self._actions, *([Leave()] if leaves else [])))

    def _do(self, actions: list[Action]) -> int:
        self._actions += actions
        return sum(1 for it in actions if event_type_of(it))

    def _charge(self) -> Iterator[Action]:
        self._sessions += 1
        self._now += timedelta(minutes=self._random.uniform(4, 25))
        session = Charge(f"hub-{self._number:04d}-{self._sessions}", self._energy(), self._now)
        self._balance += session.nova
        yield session
        if self._random.random() < 0.03:
            # Chargers report a session again when they missed the answer.
            yield Charge(session.session_id, session.energy_kwh, session.ended_at, is_repeat=True)

    def _energy(self) -> Decimal:
        if self._random.random() < 0.02:
            # Plugged in and out: worth no Nova, and no event.
            return Decimal("0.04")
        return Decimal(self._random.randint(50, 1800)) / 100

    def _spend(self) -> Iterator[Action]:
        self._redemptions += 1
        key = f"evening-{self._number:04d}-{self._redemptions}"
        merchant = self._random.choice(_MERCHANTS)
        if self._random.random() < 0.03 or self._balance < _REDEMPTION_STEP:
            yield Redeem(key, merchant, self._balance + 1, exceeds_balance=True)
            return
        amount = _REDEMPTION_STEP * self._random.randint(1, self._balance // _REDEMPTION_STEP)
        self._balance -= amount
        yield Redeem(key, merchant, amount)
