"""The account that is delivered to, and what one process has learnt of it, by whichever claim."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from zoneinfo import ZoneInfo

from hubspot_sync.account import Account
from hubspot_sync.account_properties import AccountProperties
from hubspot_sync.client import HubSpotClient
from hubspot_sync.event import Catalog
from hubspot_sync.known_contacts import KnownContacts
from hubspot_sync.poison_detection import PoisonDetector
from hubspot_sync.translation import INPUTS_MAX


@dataclass(slots=True, eq=False)
class TargetAccount:
    """`portal_id` says which account is meant; `verified` is that account, once the token is known to belong to it.

    `daily_reserve` is the share of its daily limit that is left to others.
    """

    client: HubSpotClient
    catalog: Catalog
    portal_id: str
    daily_reserve: float
    random: Random
    verified: Account | None = None
    # Of the account that was verified last: its day ends by it also while it is verified anew.
    time_zone: ZoneInfo | None = None
    verification: asyncio.Lock = field(default_factory=asyncio.Lock)
    contacts: KnownContacts = field(default_factory=KnownContacts)
    detector: PoisonDetector = field(default_factory=PoisonDetector)
    # Of reads alone: a subject whose upserts are answered may be one whose contact nobody is shown.
    read_detector: PoisonDetector = field(default_factory=PoisonDetector)
    erasure_detector: PoisonDetector = field(default_factory=PoisonDetector)
    # Whose address HubSpot refuses for good.
    blocked: KnownContacts = field(default_factory=KnownContacts)
    properties: AccountProperties = field(init=False)
    throttles_in_a_row: int = 0
    # Each worker begins elsewhere, and goes on from there.
    rounds_of_others: int = field(init=False)

    def __post_init__(self) -> None:
        self.properties = AccountProperties(self.client, self.catalog)
        self.rounds_of_others = int(self.random.random() * INPUTS_MAX)
