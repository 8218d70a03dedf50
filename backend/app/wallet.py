"""A driver's wallet: passes on their phone, and how far they have come."""

from __future__ import annotations

from enum import StrEnum
from uuid import uuid4

from app.clock import now
from app.models import Driver, WalletPass


class PassType(StrEnum):
    APPLE = "apple"
    GOOGLE = "google"


class Stage(StrEnum):
    """The furthest step a driver has reached; totals only grow, so it never goes back."""

    SIGNED_UP = "signed_up"
    PASS_INSTALLED = "pass_installed"  # noqa: S105  # No password.
    EARNING = "earning"
    REDEEMING = "redeeming"


def install_pass(driver: Driver, pass_type: PassType) -> tuple[WalletPass, bool]:
    """The driver's pass of this type, and whether it is new. The caller holds the driver's lock."""
    for installed in driver.passes:
        if installed.pass_type == pass_type:
            return installed, False
    installed = WalletPass(id=uuid4(), pass_type=pass_type, installed_at=now())
    driver.passes.append(installed)
    return installed, True


def stage_of(driver: Driver) -> Stage:
    if driver.wallet.redeemed_count:
        return Stage.REDEEMING
    if driver.wallet.earned_count:
        return Stage.EARNING
    return Stage.PASS_INSTALLED if driver.passes else Stage.SIGNED_UP
