"""What each lifecycle event says of a driver, built from the rows it came from.

Totals are absolute and the stage is the furthest one, so that delivering an event twice changes nothing.
"""

from __future__ import annotations

from app.clock import as_text
from app.models import Driver, NovaGrant, Redemption, WalletPass
from app.wallet import stage_of

Payload = dict[str, object]


def driver_signed_up(driver: Driver) -> Payload:
    return _about(driver) | {
        "created_at": as_text(driver.created_at),
        "auth_provider": driver.auth_provider,
    }


def wallet_pass_installed(installed: WalletPass) -> Payload:
    return _about(installed.driver) | {
        "pass_type": installed.pass_type,
        "installed_at": as_text(installed.installed_at),
    }


def nova_earned(granted: NovaGrant) -> Payload:
    wallet = granted.driver.wallet
    return _about(granted.driver) | {
        "amount": granted.amount,
        "session_id": granted.session_id,
        "earned_at": as_text(granted.ended_at),
        "new_balance": wallet.balance,
        "lifetime_earned": wallet.lifetime_earned,
        "earned_count": wallet.earned_count,
    }


def nova_redeemed(redeemed: Redemption) -> Payload:
    wallet = redeemed.driver.wallet
    return _about(redeemed.driver) | {
        "amount": redeemed.amount,
        "merchant_id": redeemed.merchant_id,
        "redemption_id": str(redeemed.id),
        "redeemed_at": as_text(redeemed.redeemed_at),
        "new_balance": wallet.balance,
        "lifetime_redeemed": wallet.lifetime_redeemed,
        "redeemed_count": wallet.redeemed_count,
    }


def first_redemption_completed(redeemed: Redemption) -> Payload:
    return _about(redeemed.driver) | {
        "redemption_id": str(redeemed.id),
        "merchant_id": redeemed.merchant_id,
        "amount": redeemed.amount,
        "completed_at": as_text(redeemed.redeemed_at),
    }


def _about(driver: Driver) -> Payload:
    addresses = {"email": driver.email, "phone": driver.phone}
    known = {name: text for name, text in addresses.items() if text is not None}
    return {"user_id": str(driver.id), "stage": stage_of(driver), **known}
