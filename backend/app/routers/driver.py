"""The driver's own account."""

from __future__ import annotations

from http import HTTPStatus
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.accounts import delete_driver, driver_of, lock_driver_of
from app.database import lock_name
from app.dependencies import BearerToken, Sessions
from app.problems import DatabaseUnavailable, NotAuthenticated, Problem, describe
from app.services.hubspot import forget
from hubspot_sync.errors import ErasureKeyMissing

router = APIRouter(prefix="/v1/driver", tags=["driver"])


class CannotForget(Problem):
    """Nothing was deleted: this installation lacks the key by which those who are forgotten are known. Tell its
    operator to set HUBSPOT_ERASURE_KEY.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "cannot-forget"
    title = "Cannot forget anybody"


class DriverForgotten(BaseModel):
    """The account is gone; what is HubSpot's follows within seconds, or once HubSpot is there."""

    erasure_id: UUID = Field(description="Of the event that erases the driver in HubSpot.")


@router.delete(
    "",
    status_code=HTTPStatus.ACCEPTED,
    summary="Delete the driver's account, and have HubSpot forget them",
    responses=describe(NotAuthenticated, CannotForget, DatabaseUnavailable),
)
def delete(token: BearerToken, sessions: Sessions) -> DriverForgotten:
    """For good: Nova that was not redeemed is lost, and HubSpot never takes the address again."""
    with sessions.begin() as db:
        # Names are locked before rows, as a sign-in does.
        seen = driver_of(db, token)
        for address in sorted(address for address in (seen.email, seen.phone) if address):
            lock_name(db, address)
        driver = lock_driver_of(db, token)
        try:
            erasure_id = forget(db, str(driver.id), reason="the driver deleted their account")
        except ErasureKeyMissing as error:
            raise CannotForget(" ".join((CannotForget.__doc__ or "").split())) from error
        delete_driver(db, driver)
        return DriverForgotten(erasure_id=erasure_id)
