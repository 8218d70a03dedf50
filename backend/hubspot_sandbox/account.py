"""One HubSpot account: its settings, and everything it remembers until it is reset."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from hubspot_sandbox.contacts import ContactStore
from hubspot_sandbox.faults import Faults
from hubspot_sandbox.journal import Journal
from hubspot_sandbox.limits import DailyLimit, RollingLimit
from hubspot_sandbox.rules import AccountRules
from hubspot_sandbox.standard_properties import standard_schema
from hubspot_sandbox.switches import Switches

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class AccountSettings:
    portal_id: int = 12345678
    tokens: frozenset[str] = frozenset()
    """Accepted tokens; none means that any token is accepted."""
    requests_per_ten_seconds: int = 190
    requests_per_day: int = 625_000
    time_zone: str = "US/Eastern"
    search_lag: timedelta = timedelta(seconds=3)
    """How long after a write search finds it; seconds, up to half a minute, have been seen."""
    seed: int | None = None
    rules: AccountRules = field(default_factory=AccountRules)
    switches: Switches = field(default_factory=Switches)


class Account:
    def __init__(self, settings: AccountSettings | None = None, clock: Clock = time.time) -> None:
        self.settings = settings or AccountSettings()
        self.clock = clock
        self.reset()

    def reset(self) -> None:
        """Afterwards the account is fresh: standard properties, no contacts, no faults, unused limits."""
        settings = self.settings
        self.switches = settings.switches
        self.random = random.Random(settings.seed)  # noqa: S311 (repeatable on purpose, guards nothing)
        self.schema = standard_schema(self.clock())
        self.contacts = ContactStore(self.schema, settings.switches, settings.search_lag)
        self.faults = Faults()
        self.journal = Journal()
        self.daily_limit = DailyLimit(settings.requests_per_day, ZoneInfo(settings.time_zone))
        self._rolling_limits: dict[str, RollingLimit] = {}

    def switch(self, changes: Mapping[str, object]) -> None:
        """Turn some switches; those not named stay as they are."""
        self.switches = Switches.model_validate({**self.switches.model_dump(), **changes})
        self.contacts.switches = self.switches

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
