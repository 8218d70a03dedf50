"""Nova: earned by charging, spent at merchants. Callers hold the driver's lock, so that balances add up."""

from __future__ import annotations

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from http import HTTPStatus
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import lock_driver
from app.clock import now
from app.database import lock_name
from app.models import Driver, NovaGrant, Redemption
from app.problems import Problem

NOVA_PER_KWH = 10


class SessionGranted(Problem):
    """This charging session was granted with another driver, energy or end."""

    status = HTTPStatus.CONFLICT
    kind = "session-granted"
    title = "Charging session already granted otherwise"


class KeyReused(Problem):
    """This Idempotency-Key was used for another redemption; send a new key for a new redemption."""

    status = HTTPStatus.CONFLICT
    kind = "idempotency-key-reused"
    title = "Idempotency-Key already used otherwise"


class BalanceTooSmall(Problem):
    """The driver has fewer Nova than the redemption asks for."""

    status = HTTPStatus.CONFLICT
    kind = "balance-too-small"
    title = "Balance too small"


def nova_for(energy_kwh: Decimal) -> int:
    """Whole Nova for an energy, half a Nova rounded up."""
    return int((energy_kwh * NOVA_PER_KWH).to_integral_value(ROUND_HALF_UP))


def grant(
    db: Session, driver_id: UUID, session_id: str, energy_kwh: Decimal, ended_at: datetime
) -> tuple[NovaGrant, bool]:
    """The grant of this charging session, and whether it is new. Locks the driver.

    A session too short for one Nova is stored with amount 0 and does not count as earning.
    """
    # Two requests may name one session and two drivers, so the drivers' locks do not keep them apart.
    lock_name(db, f"charging session {session_id}")
    driver = lock_driver(db, driver_id)
    granted = db.scalar(select(NovaGrant).where(NovaGrant.session_id == session_id))
    if granted is not None:
        if (granted.driver_id, granted.energy_kwh, granted.ended_at) != (driver_id, energy_kwh, ended_at):
            raise SessionGranted(f"Charging session {session_id} was granted with another driver, energy or end.")
        return granted, False
    amount = nova_for(energy_kwh)
    _earn(driver, amount)
    granted = NovaGrant(
        id=uuid4(),
        session_id=session_id,
        driver=driver,
        energy_kwh=energy_kwh,
        ended_at=ended_at,
        amount=amount,
        new_balance=driver.wallet.balance,
        created_at=now(),
    )
    db.add(granted)
    return granted, True


def redeem(db: Session, driver: Driver, idempotency_key: str, merchant_id: str, amount: int) -> tuple[Redemption, bool]:
    """The redemption under this key, and whether it is new. The caller holds the driver's lock."""
    redeemed = db.scalar(
        select(Redemption).where(Redemption.driver_id == driver.id, Redemption.idempotency_key == idempotency_key)
    )
    if redeemed is not None:
        if (redeemed.merchant_id, redeemed.amount) != (merchant_id, amount):
            raise KeyReused(f"Idempotency-Key {idempotency_key} was used for another merchant or amount.")
        return redeemed, False
    is_first = driver.wallet.redeemed_count == 0
    _spend(driver, amount)
    redeemed = Redemption(
        id=uuid4(),
        driver=driver,
        idempotency_key=idempotency_key,
        merchant_id=merchant_id,
        amount=amount,
        new_balance=driver.wallet.balance,
        is_first=is_first,
        redeemed_at=now(),
    )
    db.add(redeemed)
    return redeemed, True


def _earn(driver: Driver, amount: int) -> None:
    wallet = driver.wallet
    wallet.balance += amount
    wallet.lifetime_earned += amount
    wallet.earned_count += 1 if amount else 0


def _spend(driver: Driver, amount: int) -> None:
    wallet = driver.wallet
    if amount > wallet.balance:
        raise BalanceTooSmall(f"The balance is {wallet.balance} Nova; the redemption asks for {amount}.")
    wallet.balance -= amount
    wallet.lifetime_redeemed += amount
    wallet.redeemed_count += 1
