"""The driver's wallet and its passes."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app import lifecycle
from app.accounts import driver_of, lock_driver_of
from app.dependencies import BearerToken, Sessions
from app.models import Driver, WalletPass
from app.problems import DatabaseUnavailable, Invalid, NotAuthenticated, describe
from app.routers.fields import RequestBody
from app.services.hubspot import track_event
from app.wallet import PassType, Stage, install_pass, stage_of

router = APIRouter(prefix="/v1/wallet", tags=["wallet"])


class PassRequest(RequestBody):
    pass_type: PassType


class PassInstalled(BaseModel):
    pass_id: UUID
    pass_type: PassType
    installed_at: datetime

    @classmethod
    def of(cls, installed: WalletPass) -> PassInstalled:
        return cls(
            pass_id=installed.id,
            pass_type=PassType(installed.pass_type),
            installed_at=installed.installed_at,
        )


class WalletView(BaseModel):
    driver_id: UUID
    balance: int = Field(description="Nova that can be redeemed.")
    lifetime_earned: int
    lifetime_redeemed: int
    earned_count: int = Field(description="Charging sessions that earned at least one Nova.")
    redeemed_count: int
    stage: Stage
    passes: list[PassInstalled]

    @classmethod
    def of(cls, driver: Driver) -> WalletView:
        wallet = driver.wallet
        return cls(
            driver_id=driver.id,
            balance=wallet.balance,
            lifetime_earned=wallet.lifetime_earned,
            lifetime_redeemed=wallet.lifetime_redeemed,
            earned_count=wallet.earned_count,
            redeemed_count=wallet.redeemed_count,
            stage=stage_of(driver),
            passes=[PassInstalled.of(wallet_pass) for wallet_pass in driver.passes],
        )


@router.get("", summary="Balance, totals and passes", responses=describe(NotAuthenticated, DatabaseUnavailable))
def read_wallet(token: BearerToken, sessions: Sessions) -> WalletView:
    with sessions.begin() as db:
        return WalletView.of(driver_of(db, token))


@router.post(
    "/passes",
    status_code=HTTPStatus.CREATED,
    summary="Record that a wallet pass was installed",
    responses={
        200: {"model": PassInstalled, "description": "This type was installed before; the same answer again"},
        **describe(NotAuthenticated, Invalid, DatabaseUnavailable),
    },
)
def record_pass(body: PassRequest, token: BearerToken, sessions: Sessions, response: Response) -> PassInstalled:
    with sessions.begin() as db:
        driver = lock_driver_of(db, token)
        installed, is_new = install_pass(driver, body.pass_type)
        if is_new:
            track_event(db, "wallet_pass_installed", lifecycle.wallet_pass_installed(installed))
    response.status_code = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return PassInstalled.of(installed)
