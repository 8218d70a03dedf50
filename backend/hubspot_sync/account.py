"""The account that a token belongs to: known before anything is written, so that nothing is written to another."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, Field

from hubspot_sync.answer import Answer, parsed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """`time_zone` decides when the daily limit ends; None when its name is unknown here."""

    portal_id: str
    type: str
    time_zone_name: str
    time_zone: ZoneInfo | None


class _Details(BaseModel):
    portal_id: int = Field(alias="portalId")
    type: str = Field(default="", alias="accountType")
    time_zone: str = Field(default="UTC", alias="timeZone")


def read_account(answer: Answer) -> Account | None:
    """The account that a successful answer describes; None when it describes none."""
    details = parsed(_Details, answer.body)
    if details is None:
        return None
    return Account(str(details.portal_id), details.type, details.time_zone, _time_zone(details.time_zone))


def objection_to(account: Account, portal_id: str) -> str | None:
    """Why nothing may be written to this account, in words; None when it is the one that was meant."""
    if account.portal_id == portal_id.strip():
        return None
    return (
        f"the token belongs to portal {account.portal_id}, HUBSPOT_PORTAL_ID says {portal_id.strip() or 'nothing'}: "
        "set the one that is meant and restart the worker."
    )


def _time_zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        log.warning("HubSpot's time zone %r is unknown here; a daily limit is looked at every hour.", name[:64])
        return None
