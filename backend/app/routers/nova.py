"""Nova granted for charging sessions, and redeemed at merchants."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from app import lifecycle
from app.accounts import lock_driver_of
from app.clock import to_millisecond
from app.dependencies import BearerToken, Sessions, TooManyWrongKeys, require_service_key
from app.nova import BalanceTooSmall, KeyReused, SessionGranted, grant, redeem
from app.problems import DatabaseUnavailable, Invalid, NotAuthenticated, NotFound, describe
from app.routers.fields import Identifier, RequestBody
from app.services.hubspot import track_event
from hubspot_sync.event import Instant

router = APIRouter(prefix="/v1/nova", tags=["nova"])

# Charging data is known to write years as 0014; such a session is refused rather than filed under the Romans.
_EARLIEST_END = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST_END = datetime(2100, 1, 1, tzinfo=UTC)


_DECIMAL = re.compile(r"-?\d+(\.\d+)?", re.ASCII)


def _is_decimal(value: object) -> object:
    """Python's Decimal reads more than JSON's numbers, written as texts, would be: 1_000, say."""
    if isinstance(value, bool) or (isinstance(value, str) and not _DECIMAL.fullmatch(value)):
        raise ValueError("is no decimal number like 7.78")
    return value


class GrantRequest(RequestBody):
    session_id: Identifier = Field(description="The charging session; it is granted once.", examples=["1366563"])
    driver_id: UUID
    energy_kwh: Annotated[
        Decimal,
        Field(
            gt=0,
            max_digits=12,
            decimal_places=6,
            description="10 Nova per kWh, half a Nova rounded up.",
            examples=["7.78"],
        ),
        BeforeValidator(_is_decimal),
    ]
    ended_at: Annotated[
        Instant,
        Field(ge=_EARLIEST_END, lt=_LATEST_END, description="With its offset.", examples=["2026-11-24T07:40:02+01:00"]),
        AfterValidator(to_millisecond),
    ]


class Granted(BaseModel):
    grant_id: UUID
    amount: int = Field(description="Nova granted; 0 for a session too short for one.")
    new_balance: int = Field(description="The balance right after this grant.")


class RedemptionRequest(RequestBody):
    merchant_id: Identifier = Field(examples=["corner-bakery"])
    amount: int = Field(ge=1, strict=True, description="Whole Nova.", examples=[50])


class Redeemed(BaseModel):
    redemption_id: UUID
    amount: int
    new_balance: int = Field(description="The balance right after this redemption.")
    first_redemption: bool = Field(description="Whether it was the driver's first.")


IdempotencyKey = Annotated[
    Identifier,
    Header(
        alias="Idempotency-Key",
        description="Names this redemption: repeated with the same key, it happens once.",
        examples=["7f3a2c"],
    ),
]


@router.post(
    "/grants",
    status_code=HTTPStatus.CREATED,
    summary="Grant the Nova of a charging session",
    dependencies=[Depends(require_service_key)],
    responses={
        200: {"model": Granted, "description": "The session was granted before; the same answer again"},
        **describe(NotAuthenticated, TooManyWrongKeys, NotFound, SessionGranted, Invalid, DatabaseUnavailable),
    },
)
def grant_nova(body: GrantRequest, sessions: Sessions, response: Response) -> Granted:
    with sessions.begin() as db:
        granted, is_new = grant(db, body.driver_id, body.session_id, body.energy_kwh, body.ended_at)
        if is_new and granted.amount:
            track_event(db, "nova_earned", lifecycle.nova_earned(granted))
    response.status_code = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return Granted(grant_id=granted.id, amount=granted.amount, new_balance=granted.new_balance)


@router.post(
    "/redemptions",
    status_code=HTTPStatus.CREATED,
    summary="Redeem Nova at a merchant",
    responses={
        200: {"model": Redeemed, "description": "This key was redeemed before; the same answer again"},
        **describe(NotAuthenticated, BalanceTooSmall, KeyReused, Invalid, DatabaseUnavailable),
    },
)
def redeem_nova(
    body: RedemptionRequest,
    token: BearerToken,
    idempotency_key: IdempotencyKey,
    sessions: Sessions,
    response: Response,
) -> Redeemed:
    with sessions.begin() as db:
        driver = lock_driver_of(db, token)
        redeemed, is_new = redeem(db, driver, idempotency_key, body.merchant_id, body.amount)
        if is_new:
            track_event(db, "nova_redeemed", lifecycle.nova_redeemed(redeemed))
        if is_new and redeemed.is_first:
            track_event(db, "first_redemption_completed", lifecycle.first_redemption_completed(redeemed))
    response.status_code = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return Redeemed(
        redemption_id=redeemed.id,
        amount=redeemed.amount,
        new_balance=redeemed.new_balance,
        first_redemption=redeemed.is_first,
    )
