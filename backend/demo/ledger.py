"""What happened, by the business tables alone: the events it must have raised, and the contacts it must have made.

A second reading of the rules, on purpose: it shares no code with `app/lifecycle.py`, which writes the events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.models import Driver, NovaGrant, Redemption, Wallet, WalletPass

KEY = "nerava_user_id"
PROPERTIES = (
    "email",
    "phone",
    "nerava_signed_up_at",
    "nerava_auth_provider",
    "nerava_stage",
    "nerava_wallet_pass_installed",
    "nerava_wallet_pass_type",
    "nerava_wallet_pass_installed_at",
    "nerava_balance",
    "nerava_lifetime_earned",
    "nerava_lifetime_redeemed",
    "nerava_earned_count",
    "nerava_redeemed_count",
    "nerava_last_earned_at",
    "nerava_last_redeemed_at",
    "nerava_first_redemption_at",
    "nerava_last_merchant_id",
)

Contact = dict[str, str | None]
OfDriver = TypeVar("OfDriver", WalletPass, NovaGrant, Redemption)


@dataclass(frozen=True, slots=True, order=True)
class EventName:
    """What makes an event this one: its type, its driver, and the session, redemption or pass it is about."""

    event_type: str
    driver_id: str
    about: str = ""

    def __str__(self) -> str:
        return f"{self.event_type} of driver {self.driver_id}" + (f" about {self.about}" if self.about else "")


@dataclass(frozen=True, slots=True)
class Account:
    """One driver and all that is stored of them; sequences are in the order of their instants."""

    driver: Driver
    wallet: Wallet
    passes: Sequence[WalletPass]
    grants: Sequence[NovaGrant]
    redemptions: Sequence[Redemption]

    @property
    def driver_id(self) -> str:
        return str(self.driver.id)

    @property
    def earnings(self) -> Sequence[NovaGrant]:
        """Sessions too short for one Nova earn nothing and raise no event."""
        return [it for it in self.grants if it.amount > 0]

    def events(self) -> Iterator[EventName]:
        yield EventName("driver_signed_up", self.driver_id)
        for installed in self.passes:
            yield EventName("wallet_pass_installed", self.driver_id, installed.pass_type)
        for earning in self.earnings:
            yield EventName("nova_earned", self.driver_id, earning.session_id)
        for redemption in self.redemptions:
            yield EventName("nova_redeemed", self.driver_id, str(redemption.id))
        if self.redemptions:
            yield EventName("first_redemption_completed", self.driver_id, str(self.redemptions[0].id))

    def contact(self) -> Contact:
        """Every property as HubSpot writes it; None where no event has set it."""
        contact: Contact = dict.fromkeys(PROPERTIES)
        contact |= {
            "email": self.driver.email,
            "phone": self.driver.phone,
            "nerava_signed_up_at": _instant(self.driver.created_at),
            "nerava_auth_provider": self.driver.auth_provider,
            "nerava_stage": self._stage(),
        }
        return contact | self._pass_properties() | self._nova_properties()

    def inconsistencies(self) -> Iterator[str]:
        """Where the wallet's totals are not the sums of what was granted and redeemed."""
        earned = sum(it.amount for it in self.grants)
        redeemed = sum(it.amount for it in self.redemptions)
        sums = {
            "balance": earned - redeemed,
            "lifetime_earned": earned,
            "lifetime_redeemed": redeemed,
            "earned_count": len(self.earnings),
            "redeemed_count": len(self.redemptions),
        }
        totals = self._totals()
        for name, value in sums.items():
            if totals[name] != value:
                yield f"wallet of driver {self.driver_id}: {name} is {totals[name]}, its rows make {value}"

    def _totals(self) -> Mapping[str, int]:
        wallet = self.wallet
        return {
            "balance": wallet.balance,
            "lifetime_earned": wallet.lifetime_earned,
            "lifetime_redeemed": wallet.lifetime_redeemed,
            "earned_count": wallet.earned_count,
            "redeemed_count": wallet.redeemed_count,
        }

    def _stage(self) -> str:
        if self.redemptions:
            return "redeeming"
        if self.earnings:
            return "earning"
        return "pass_installed" if self.passes else "signed_up"

    def _pass_properties(self) -> Contact:
        if not self.passes:
            return {}
        latest = self.passes[-1]
        return {
            "nerava_wallet_pass_installed": "true",
            "nerava_wallet_pass_type": latest.pass_type,
            "nerava_wallet_pass_installed_at": _instant(latest.installed_at),
        }

    def _nova_properties(self) -> Contact:
        totals = self._totals()
        contact: Contact = {}
        if self.earnings:
            contact |= {f"nerava_{name}": str(totals[name]) for name in ("balance", "lifetime_earned", "earned_count")}
            contact["nerava_last_earned_at"] = _instant(self.earnings[-1].ended_at)
        if self.redemptions:
            contact |= {
                f"nerava_{name}": str(totals[name]) for name in ("balance", "lifetime_redeemed", "redeemed_count")
            }
            contact["nerava_first_redemption_at"] = _instant(self.redemptions[0].redeemed_at)
            contact["nerava_last_redeemed_at"] = _instant(self.redemptions[-1].redeemed_at)
            contact["nerava_last_merchant_id"] = self.redemptions[-1].merchant_id
        return contact


def read_ledger(engine: Engine) -> list[Account]:
    """Every driver's account, in one consistent view of the tables."""
    with Session(engine) as db:
        wallets = {it.driver_id: it for it in db.scalars(select(Wallet))}
        passes = _by_driver(db.scalars(select(WalletPass).order_by(WalletPass.installed_at)))
        grants = _by_driver(db.scalars(select(NovaGrant).order_by(NovaGrant.ended_at)))
        redemptions = _by_driver(db.scalars(select(Redemption).order_by(Redemption.redeemed_at)))
        drivers = db.scalars(select(Driver).order_by(Driver.created_at)).all()
    return [Account(it, wallets[it.id], passes[it.id], grants[it.id], redemptions[it.id]) for it in drivers]


def _by_driver(rows: Iterable[OfDriver]) -> defaultdict[UUID, list[OfDriver]]:
    grouped: defaultdict[UUID, list[OfDriver]] = defaultdict(list)
    for row in rows:
        grouped[row.driver_id].append(row)
    return grouped


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"
