"""The account that a token belongs to: known before anything is written, so that nothing is written to another."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hubspot_sync.answer import Answer

log = logging.getLogger(__name__)

_PORTAL_ID = re.compile(r"\d{1,18}", re.ASCII)
# Of the time zone database; what is looked up is a file's name.
_TIME_ZONE = re.compile(r"[A-Za-z][\w+-]*+(?:/[\w+-]++)*+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Account:
    """`time_zone` decides when the daily limit ends; None when its name is unknown here."""

    portal_id: str
    type: str
    time_zone_name: str
    time_zone: ZoneInfo | None


def read_account(answer: Answer) -> Account | None:
    """The account that a successful answer describes; None when it describes none."""
    details = answer.body if isinstance(answer.body, dict) else {}
    portal_id = details.get("portalId")
    if isinstance(portal_id, bool) or not _PORTAL_ID.fullmatch(
        str(portal_id) if isinstance(portal_id, str | int) else ""
    ):
        return None
    time_zone_name = answer.shown(details.get("timeZone", "UTC"))
    return Account(str(portal_id), answer.shown(details.get("accountType")), time_zone_name, _time_zone(time_zone_name))


def objection_to(account: Account, portal_id: str) -> str | None:
    """Why nothing may be written to this account, in words; None when it is the one that was meant."""
    if account.portal_id == portal_id.strip():
        return None
    return (
        f"the token belongs to portal {account.portal_id}, HUBSPOT_PORTAL_ID says {portal_id.strip() or 'nothing'}: "
        "set the one that is meant and restart the worker."
    )


def _time_zone(name: str) -> ZoneInfo | None:
    if _TIME_ZONE.fullmatch(name):
        with suppress(ZoneInfoNotFoundError, ValueError, OSError):
            return ZoneInfo(name)
    log.warning("HubSpot's time zone %r is unknown here; a daily limit is looked at every hour.", name)
    return None
