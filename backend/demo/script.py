"""What drivers do, written down beforehand: the same script is played every time, whatever happens on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import assert_never

NOVA_PER_KWH = 10


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


Action = InstallPass | Charge | Redeem


@dataclass(frozen=True, slots=True)
class DriverScript:
    """One driver, who signs up by phone or by email, and what they do afterwards, in order."""

    number: int
    channel: str
    address: str
    actions: tuple[Action, ...]

    def event_types(self) -> Iterator[str]:
        """The lifecycle events that the driver's actions must raise."""
        yield "driver_signed_up"
        has_redeemed = False
        for action in self.actions:
            match action:
                case InstallPass():
                    yield "wallet_pass_installed"
                case Charge():
                    if action.nova and not action.is_repeat:
                        yield "nova_earned"
                case Redeem():
                    if action.exceeds_balance:
                        continue
                    yield "nova_redeemed"
                    if not has_redeemed:
                        yield "first_redemption_completed"
                    has_redeemed = True
                case _:
                    assert_never(action)


@dataclass(frozen=True, slots=True)
class Script:
    title: str
    drivers: tuple[DriverScript, ...]

    def event_types(self) -> Counter[str]:
        return Counter(it for driver in self.drivers for it in driver.event_types())

    @property
    def action_count(self) -> int:
        """Sign-ups included."""
        return sum(1 + len(driver.actions) for driver in self.drivers)


def address_of(number: int) -> tuple[str, str]:
    """The channel and address by which driver `number` signs up: every third by phone, and so without an email."""
    if number % 3 == 0:
        return "phone", f"+1555{number:07d}"
    return "email", f"driver-{number:04d}@example.com"
