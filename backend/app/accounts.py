"""Drivers and the bearer tokens they are known by."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from app.addresses import Address, Channel
from app.clock import now
from app.models import AccessToken, Driver, NovaGrant, OtpChallenge, Redemption, Wallet, WalletPass
from app.problems import NotAuthenticated, NotFound

TOKEN_BYTES = 32
TOKEN_LIFETIME = timedelta(days=90)
AUTH_PROVIDER = "otp"


def find_or_create_driver(db: Session, address: Address) -> tuple[Driver, bool]:
    """The driver of this address, locked, and whether they are new. The caller holds the address's name."""
    column = Driver.phone if address.channel is Channel.PHONE else Driver.email
    driver = db.scalar(select(Driver).where(column == address.text).with_for_update())
    if driver is not None:
        return driver, False
    driver = Driver(
        id=uuid4(),
        phone=address.text if address.channel is Channel.PHONE else None,
        email=address.text if address.channel is Channel.EMAIL else None,
        auth_provider=AUTH_PROVIDER,
        created_at=now(),
        wallet=Wallet(balance=0, lifetime_earned=0, lifetime_redeemed=0, earned_count=0, redeemed_count=0),
    )
    db.add(driver)
    return driver, True


def issue_token(db: Session, driver: Driver) -> str:
    """A new bearer token of the driver. Their expired ones are deleted, so that the table does not grow for ever."""
    issued_at = now()
    db.execute(delete(AccessToken).where(AccessToken.driver_id == driver.id, AccessToken.expires_at <= issued_at))
    token = secrets.token_urlsafe(TOKEN_BYTES)
    db.add(
        AccessToken(
            token_hash=_hash_token(token),
            driver_id=driver.id,
            created_at=issued_at,
            expires_at=issued_at + TOKEN_LIFETIME,
        )
    )
    return token


def delete_driver(db: Session, driver: Driver) -> None:
    """Delete the driver and every row that is about them; the caller has the driver locked."""
    driver_id, addresses = driver.id, [address for address in (driver.email, driver.phone) if address is not None]
    db.execute(delete(OtpChallenge).where(OtpChallenge.address.in_(addresses)))
    for table in (AccessToken, WalletPass, NovaGrant, Redemption, Wallet):
        db.execute(delete(table).where(table.driver_id == driver_id))
    db.execute(delete(Driver).where(Driver.id == driver_id))


def driver_of(db: Session, token: str) -> Driver:
    """The driver whom the token names."""
    return _one_driver(db, _with_token(token))


def lock_driver_of(db: Session, token: str) -> Driver:
    """The driver whom the token names; no other request changes them until this transaction ends."""
    return _one_driver(db, _with_token(token).with_for_update(of=Driver))


def lock_driver(db: Session, driver_id: UUID) -> Driver:
    driver = db.get(Driver, driver_id, with_for_update=True)
    if driver is None:
        raise NotFound(f"There is no driver {driver_id}.")
    return driver


def _with_token(token: str) -> Select[Driver]:
    return (
        select(Driver)
        .join(AccessToken, AccessToken.driver_id == Driver.id)
        .where(AccessToken.token_hash == _hash_token(token), AccessToken.expires_at > now())
    )


def _one_driver(db: Session, statement: Select[Driver]) -> Driver:
    driver = db.scalar(statement)
    if driver is None:
        raise NotAuthenticated("The bearer token is unknown or has expired; sign in again.")
    return driver


def _hash_token(token: str) -> str:
    # 32 random bytes need no salt and no slow hash: nobody guesses them.
    return hashlib.sha256(token.encode()).hexdigest()
