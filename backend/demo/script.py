"""What drivers do, written down beforehand: the same script is played every time, whatever happens on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from itertools import chain
from typing import assert_never

NOVA_PER_KWH = 10
REDEEMED = "nova_redeemed"


@dataclass(frozen=True, slots=True)
class SignUp:
    """By a one-time code; the driver is known to the application from then on."""


@dataclass(frozen=True, slots=True)
class InstallPass:
    pass_type: str


@dataclass(frozen=True, slots=True)
class Charge:
    """The charger reports the session's end; `is_repeat` when it has reported it before."""

    session_id: str
    energy_kwh: Decimal
    ended_at: datetime
    is_repeat: bool = False

    @property
    def nova(self) -> int:
        """What the session is worth, by the published rule and not by the application's code."""
        return int((self.energy_kwh * NOVA_PER_KWH).to_integral_value(ROUND_HALF_UP))


@dataclass(frozen=True, slots=True)
class Redeem:
    """`exceeds_balance`: the driver asks for more than they have, and is to be refused."""

    key: str
    merchant_id: str
    amount: int
    exceeds_balance: bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """The driver deletes the account, and asks so to be forgotten; they do nothing after it."""


Action = SignUp | InstallPass | Charge | Redeem | Leave


@dataclass(frozen=True, slots=True)
class Driver:
    """Known by a phone number or an email address, never both: `channel` says which."""

    number: int
    channel: str
    address: str


@dataclass(frozen=True, slots=True)
class Part:
    """What one driver does in a scene, in order."""

    driver: Driver
    actions: tuple[Action, ...]

    @property
    def has_left(self) -> bool:
        return Leave() in self.actions


@dataclass(frozen=True, slots=True)
class Script:
    """In a scene every driver acts by themselves; the next one begins when all are done."""

    title: str
    scenes: tuple[tuple[Part, ...], ...]

    @property
    def parts(self) -> Iterator[Part]:
        return chain.from_iterable(self.scenes)

    @property
    def driver_count(self) -> int:
        return len({part.driver.number for part in self.parts})

    @property
    def action_count(self) -> int:
        return sum(len(part.actions) for part in self.parts)

    @property
    def leavers(self) -> list[Driver]:
        """Of whom nothing may be left in the end."""
        return [part.driver for part in self.parts if part.has_left]

    def event_types(self) -> Counter[str]:
        """The lifecycle events that the script must raise, by type; of those who leave there are none in the end."""
        left = {driver.number for driver in self.leavers}
        parts = [part for part in self.parts if part.driver.number not in left]
        counts = Counter(it for part in parts for action in part.actions if (it := event_type_of(action)))
        redeemers = {part.driver.number for part in parts for it in part.actions if event_type_of(it) == REDEEMED}
        return counts + Counter(first_redemption_completed=len(redeemers))


def event_type_of(action: Action) -> str | None:
    """The event that an action raises; None for one that changes nothing. A first redemption raises one more."""
    match action:
        case SignUp():
            return "driver_signed_up"
        case InstallPass():
            return "wallet_pass_installed"
        case Charge():
            return "nova_earned" if action.nova and not action.is_repeat else None
        case Redeem():
            return None if action.exceeds_balance else REDEEMED
        case Leave():
            return None
        case _:
            assert_never(action)


def driver(number: int) -> Driver:
    """Driver `number`, counted from 1. Every third signs up by phone, and so has no email."""
    if number % 3 == 0:
        return Driver(number, "phone", f"+1555{number:07d}")
    return Driver(number, "email", f"driver-{number:04d}@example.com")
