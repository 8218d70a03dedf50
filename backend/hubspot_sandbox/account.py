"""One HubSpot account: its settings, and everything it remembers until it is reset."""

import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from hubspot_sandbox import errors
from hubspot_sandbox.contacts import ContactStore
from hubspot_sandbox.events import Events
from hubspot_sandbox.faults import Faults
from hubspot_sandbox.journal import Journal
from hubspot_sandbox.limits import SEARCH_WINDOW_SECONDS, DailyLimit, RollingLimit
from hubspot_sandbox.rules import AccountRules
from hubspot_sandbox.standard_properties import standard_schema
from hubspot_sandbox.switches import Switches

Clock = Callable[[], float]

SEARCHES_PER_SECOND = 5
PUBLIC_APP_REQUESTS_PER_TEN_SECONDS = 110
PUBLIC_APP_TOKEN_PREFIX = "oauth-"  # noqa: S105 (the beginning of a made-up kind of token)
CONTACTS_READ = "crm.objects.contacts.read"
CONTACTS_WRITE = "crm.objects.contacts.write"
SCHEMAS_READ = "crm.schemas.contacts.read"
SCHEMAS_WRITE = "crm.schemas.contacts.write"
EVENTS_SEND = "analytics.behavioral_events.send"
EVENTS_DEFINE = "behavioral_events.event_definitions.read_write"
SCOPES = frozenset({CONTACTS_READ, CONTACTS_WRITE, SCHEMAS_READ, SCHEMAS_WRITE, EVENTS_SEND, EVENTS_DEFINE})


class AccountSettings(BaseModel):
    """What an account is like; all but the seed may change while it runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    portal_id: PositiveInt = 12345678
    tokens: frozenset[str] = frozenset()
    """Accepted tokens; none means that any token is accepted."""
    scopes: frozenset[str] = SCOPES
    """What the tokens may do."""
    requests_per_ten_seconds: NonNegativeInt = 190
    """Per token; one that starts with `oauth-` stands for a public app's and has 110."""
    requests_per_day: NonNegativeInt = 625_000
    """For the account."""
    time_zone: str = "US/Eastern"
    """Where the account's day ends at midnight."""
    search_lag_seconds: NonNegativeFloat = 3.0
    """How long after a write search finds it; seconds, up to half a minute, have been seen."""
    custom_events: bool = True
    """Whether the subscription includes custom events; without, they are answered 403."""
    seed: int | None = None
    rules: AccountRules = Field(default_factory=AccountRules)
    switches: Switches = Field(default_factory=Switches)

    @field_validator("time_zone")
    @classmethod
    def _exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{name} is no time zone") from error
        return name


class Account:
    def __init__(self, settings: AccountSettings | None = None, clock: Clock = time.time) -> None:
        self.settings = self._at_first = settings or AccountSettings()
        self.clock = clock
        self.reset()

    def reset(self) -> None:
        """Afterwards the account is fresh: its first settings, no contacts, no faults, unused limits."""
        settings = self.settings = self._at_first
        self.random = random.Random(settings.seed)  # noqa: S311 (repeatable on purpose, guards nothing)
        self.created_at = self.clock()
        self.schema = standard_schema(self.created_at)
        self.contacts = ContactStore(self.schema, settings.switches, timedelta(seconds=settings.search_lag_seconds))
        self.events = Events(settings.portal_id, self.new_uuid)
        self.faults = Faults()
        self.journal = Journal()
        self.daily_limit = DailyLimit(settings.requests_per_day, ZoneInfo(settings.time_zone))
        self.search_limit = RollingLimit(SEARCHES_PER_SECOND, SEARCH_WINDOW_SECONDS)
        self._rolling_limits: dict[str, RollingLimit] = {}

    @property
    def switches(self) -> Switches:
        return self.settings.switches

    def change(self, changes: Mapping[str, object]) -> None:
        """Change some settings until the account is reset; those not named stay, and so do switches not named."""
        before = self.settings.model_dump()
        switches = changes.get("switches", {})
        if isinstance(switches, Mapping):
            changes = {**changes, "switches": {**before["switches"], **switches}}
        self.settings = AccountSettings.model_validate({**before, **changes})
        self.contacts.switches = self.settings.switches
        self.contacts.index.lag_seconds = self.settings.search_lag_seconds
        self.events.portal_id = self.settings.portal_id
        self.daily_limit.change(self.settings.requests_per_day, ZoneInfo(self.settings.time_zone))
        for token, limit in self._rolling_limits.items():
            limit.maximum = self._requests_per_ten_seconds(token)

    def accepts(self, token: str) -> bool:
        return bool(token) and (not self.settings.tokens or token in self.settings.tokens)

    def rolling_limit(self, token: str) -> RollingLimit:
        """The burst limit of this token; each has its own."""
        limit = self._rolling_limits.get(token)
        if limit is None:
            limit = self._rolling_limits[token] = RollingLimit(self._requests_per_ten_seconds(token))
        return limit

    def archive_property(self, name: str) -> None:
        """A property that the account's rules require is in use and stays."""
        if name in self.settings.rules.properties():
            raise errors.property_in_use(name)
        self.schema.archive(name, self.clock())

    def utc_offset(self) -> timedelta:
        """How far the account's time zone is from UTC now."""
        now = datetime.fromtimestamp(self.clock(), ZoneInfo(self.settings.time_zone))
        return now.utcoffset() or timedelta()

    def new_uuid(self) -> str:
        """A UUID that depends on the seed alone."""
        return str(UUID(int=self.random.getrandbits(128), version=4))

    def _requests_per_ten_seconds(self, token: str) -> int:
        return PUBLIC_APP_REQUESTS_PER_TEN_SECONDS if is_public_app(token) else self.settings.requests_per_ten_seconds


def is_public_app(token: str) -> bool:
    return token.startswith(PUBLIC_APP_TOKEN_PREFIX)
