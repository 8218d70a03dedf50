"""One HubSpot account: its settings, and everything it remembers until it is reset."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from hubspot_sandbox.contacts import ContactStore
from hubspot_sandbox.faults import Faults
from hubspot_sandbox.journal import Journal
from hubspot_sandbox.limits import DailyLimit, RollingLimit
from hubspot_sandbox.standard_properties import standard_schema

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Switches:
    """What nobody outside HubSpot knows; a client should be right either way.

    The defaults are the likelier reading.
    """

    identical_write_bumps_lastmodifieddate: bool = False
    echo_trace_ids: bool = True
    # How an address of another contact is refused when a contact is addressed by a custom key.
    email_conflict: Literal["conflict", "coordinates"] = "conflict"
    retry_after_on_throttle: bool = False


@dataclass(frozen=True, slots=True)
class AccountSettings:
    portal_id: int = 12345678
    tokens: frozenset[str] = frozenset()
    """Accepted tokens; none means that any token is accepted."""
    requests_per_ten_seconds: int = 190
    requests_per_day: int = 625_000
    time_zone: str = "US/Eastern"
    seed: int | None = None
    switches: Switches = field(default_factory=Switches)


class Account:
    def __init__(self, settings: AccountSettings | None = None, clock: Clock = time.time) -> None:
        self.settings = settings or AccountSettings()
        self.clock = clock
        self.reset()

    def reset(self) -> None:
        """Afterwards the account is fresh: standard properties, no contacts, no faults, unused limits."""
        settings = self.settings
        self.random = random.Random(settings.seed)  # noqa: S311 (repeatable on purpose, guards nothing)
        self.schema = standard_schema(self.clock())
        self.contacts = ContactStore(
            self.schema, identical_write_bumps=settings.switches.identical_write_bumps_lastmodifieddate
        )
        self.faults = Faults()
        self.journal = Journal()
        self.daily_limit = DailyLimit(settings.requests_per_day, ZoneInfo(settings.time_zone))
        self._rolling_limits: dict[str, RollingLimit] = {}

    def accepts(self, token: str) -> bool:
        return bool(token) and (not self.settings.tokens or token in self.settings.tokens)

    def rolling_limit(self, token: str) -> RollingLimit:
        """The burst limit of this token; each has its own."""
        limit = self._rolling_limits.get(token)
        if limit is None:
            limit = self._rolling_limits[token] = RollingLimit(self.settings.requests_per_ten_seconds)
        return limit

    def utc_offset(self) -> timedelta:
        """How far the account's time zone is from UTC now."""
        now = datetime.fromtimestamp(self.clock(), ZoneInfo(self.settings.time_zone))
        return now.utcoffset() or timedelta()

    def new_uuid(self) -> str:
        """A UUID that depends on the seed alone."""
        return str(UUID(int=self.random.getrandbits(128), version=4))
