"""Sign-up and sign-in by a one-time code."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app import lifecycle
from app.accounts import find_or_create_driver, issue_token
from app.addresses import Address, Channel, normalise_email, normalise_phone
from app.dependencies import RunningApp, Sessions
from app.otp import CODE_DIGITS, CodeSpent, TooManyCodes, WrongCode, start_challenge, try_code
from app.problems import DatabaseUnavailable, Invalid, NotFound, describe
from app.routers.fields import RequestBody
from app.services.hubspot import track_event

router = APIRouter(prefix="/v1/auth/otp", tags=["sign-in"])


class StartRequest(RequestBody):
    """Exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"phone": "+4917012345678"}, {"email": "driver@example.com"}]}
    )

    phone: Annotated[str, AfterValidator(normalise_phone)] | None = Field(default=None, max_length=64)
    email: Annotated[str, AfterValidator(normalise_email)] | None = Field(default=None, max_length=320)

    @model_validator(mode="after")
    def _exactly_one(self) -> StartRequest:
        if (self.phone is None) == (self.email is None):
            raise ValueError("send either phone or email")
        return self

    def address(self) -> Address:
        if self.phone is not None:
            return Address(Channel.PHONE, self.phone)
        assert self.email is not None
        return Address(Channel.EMAIL, self.email)


class ChallengeStarted(BaseModel):
    challenge_id: UUID
    expires_at: datetime


class VerifyRequest(RequestBody):
    challenge_id: UUID
    code: str = Field(pattern=rf"^[0-9]{{{CODE_DIGITS}}}$", examples=["042137"])


class SignedIn(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105  # The type, not the token.
    driver_id: UUID
    new_driver: bool = Field(description="Whether this sign-in created the driver.")


@router.post(
    "/start",
    status_code=HTTPStatus.ACCEPTED,
    summary="Send a one-time code to a phone or an email address",
    responses=describe(Invalid, TooManyCodes, DatabaseUnavailable),
)
def start(body: StartRequest, running: RunningApp, request: Request) -> ChallengeStarted:
    """The answer is the same whether or not a driver has this address."""
    with running.sessions.begin() as db:
        code = start_challenge(db, body.address(), request.client and request.client.host)
    running.send_code(code)
    return ChallengeStarted(challenge_id=code.challenge_id, expires_at=code.expires_at)


@router.post(
    "/verify",
    summary="Sign in with the code; a new address becomes a new driver",
    responses=describe(WrongCode, NotFound, CodeSpent, Invalid, DatabaseUnavailable),
)
def verify(body: VerifyRequest, sessions: Sessions) -> SignedIn:
    with sessions.begin() as db:
        proven = try_code(db, body.challenge_id, body.code)
        if isinstance(proven, Address):
            driver, is_new = find_or_create_driver(db, proven)
            if is_new:
                track_event(db, "driver_signed_up", lifecycle.driver_signed_up(driver))
            token = issue_token(db, driver)
            return SignedIn(access_token=token, driver_id=driver.id, new_driver=is_new)
    # Only now: raised within the transaction, it would roll back the counted try.
    raise proven
