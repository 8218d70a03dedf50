"""Nerava's tables. Balances are whole Nova; energy is exact; every instant is aware UTC."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Dialect,
    ForeignKey,
    Index,
    Numeric,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator, TypeEngine

from sqlalchemy_outbox import define_outbox
from sqlalchemy_outbox.clock import Instant
from sqlalchemy_outbox.model import EventId
from sqlalchemy_outbox.text import AnyText


class Energy(TypeDecorator[Decimal]):
    """Kilowatt-hours, exact: NUMERIC on PostgreSQL; text on SQLite, whose NUMERIC is a float."""

    impl = Numeric(12, 6)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric(12, 6))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | str | None:
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Decimal | str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy declares it so.
        # As the outbox writes ids, so that outbox_events.subject = drivers.id joins on SQLite too.
        UUID: EventId(),
        datetime: Instant(),
        str: AnyText(),
        int: BigInteger(),
        Decimal: Energy(),
    }


class Driver(Base):
    __tablename__ = "drivers"
    __table_args__ = (CheckConstraint("phone IS NOT NULL OR email IS NOT NULL", name="ck_drivers_reachable"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    phone: Mapped[str | None] = mapped_column(unique=True)
    email: Mapped[str | None] = mapped_column(unique=True)
    auth_provider: Mapped[str]
    created_at: Mapped[datetime]

    wallet: Mapped[Wallet] = relationship(back_populates="driver")
    passes: Mapped[list[WalletPass]] = relationship(back_populates="driver", order_by="WalletPass.installed_at")


class OtpChallenge(Base):
    """A one-time code that was sent to an address, until it is used, guessed at too often, or too old."""

    __tablename__ = "otp_challenges"
    __table_args__ = (
        Index("ix_otp_challenges_address", "address", "created_at"),
        Index("ix_otp_challenges_client", "client", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    channel: Mapped[str]
    address: Mapped[str]
    code_hash: Mapped[str]
    wrong_tries: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    # Who asked for it, as a network that one client has to itself; NULL where that is not known.
    client: Mapped[str | None]


class AccessToken(Base):
    """A driver's bearer token, kept as its SHA-256: the table lets nobody in."""

    __tablename__ = "access_tokens"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    driver_id: Mapped[UUID] = mapped_column(ForeignKey("drivers.id"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class Wallet(Base):
    """A driver's Nova, as totals since the first day."""

    __tablename__ = "wallets"
    __table_args__ = (
        CheckConstraint("balance >= 0", name="ck_wallets_balance_not_negative"),
        CheckConstraint("balance = lifetime_earned - lifetime_redeemed", name="ck_wallets_balance_adds_up"),
    )

    driver_id: Mapped[UUID] = mapped_column(ForeignKey("drivers.id"), primary_key=True)
    balance: Mapped[int]
    lifetime_earned: Mapped[int]
    lifetime_redeemed: Mapped[int]
    earned_count: Mapped[int]
    redeemed_count: Mapped[int]

    driver: Mapped[Driver] = relationship(back_populates="wallet")


class WalletPass(Base):
    __tablename__ = "wallet_passes"
    __table_args__ = (UniqueConstraint("driver_id", "pass_type", name="uq_wallet_passes_driver_pass_type"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    driver_id: Mapped[UUID] = mapped_column(ForeignKey("drivers.id"))
    pass_type: Mapped[str]
    installed_at: Mapped[datetime]

    driver: Mapped[Driver] = relationship(back_populates="passes")


class NovaGrant(Base):
    """The Nova of one charging session. `new_balance` is what a repeated request is answered with."""

    __tablename__ = "nova_grants"
    __table_args__ = (CheckConstraint("amount >= 0", name="ck_nova_grants_amount"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(unique=True)
    driver_id: Mapped[UUID] = mapped_column(ForeignKey("drivers.id"), index=True)
    energy_kwh: Mapped[Decimal]
    ended_at: Mapped[datetime]
    amount: Mapped[int]
    new_balance: Mapped[int]
    created_at: Mapped[datetime]

    driver: Mapped[Driver] = relationship()


class Redemption(Base):
    """Nova spent at a merchant. `new_balance` and `is_first` are what a repeated request is answered with."""

    __tablename__ = "redemptions"
    __table_args__ = (
        UniqueConstraint("driver_id", "idempotency_key", name="uq_redemptions_driver_idempotency_key"),
        Index(
            "uq_redemptions_first",
            "driver_id",
            unique=True,
            postgresql_where=text("is_first"),
            sqlite_where=text("is_first"),
        ),
        CheckConstraint("amount >= 1", name="ck_redemptions_amount"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    driver_id: Mapped[UUID] = mapped_column(ForeignKey("drivers.id"))
    idempotency_key: Mapped[str]
    merchant_id: Mapped[str]
    amount: Mapped[int]
    new_balance: Mapped[int]
    is_first: Mapped[bool] = mapped_column(Boolean)
    redeemed_at: Mapped[datetime]

    driver: Mapped[Driver] = relationship()


OUTBOX = define_outbox(Base.metadata)
