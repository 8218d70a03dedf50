"""A worker's claims reach HubSpot, one `ClaimDelivery` each; what is learnt by one serves those that follow."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from hubspot_sync.account_gate import AccountGate
from hubspot_sync.claim_delivery import ClaimDelivery
from hubspot_sync.claim_progress import ClaimProgress
from hubspot_sync.client import HubSpotClient
from hubspot_sync.event import Catalog
from hubspot_sync.overtaken import without_overtaken
from hubspot_sync.target_account import TargetAccount
from hubspot_sync.translation import translate
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import ERASURE
from sqlalchemy_outbox.outcome import Outcome


class LiveDelivery:
    """Delivers to HubSpot, after making sure that the token belongs to the account that was meant.

    `daily_reserve` is the share of the account's daily limit that is left to others.
    """

    def __init__(
        self, client: HubSpotClient, catalog: Catalog, portal_id: str, *, daily_reserve: float, random: Random
    ) -> None:
        self._account = TargetAccount(client, catalog, portal_id, daily_reserve, random)

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        events = [event for event in claim.events if event.event_type != ERASURE]
        translation = await without_overtaken(translate(events, self._account.catalog), claim)
        progress = ClaimProgress(claim.events, translation)
        return await ClaimDelivery(self._account, AccountGate(self._account, gate), claim, progress).carry_out()

    async def verify_account(self, gate: Gate) -> None:
        """Hold everything rather than write to an account that was not meant; raise GateShut when not verified."""
        await AccountGate(self._account, gate).verify_account()

    async def is_over(self, key: str, gate: Gate) -> bool:
        """Whether the account has now what the key of a wait names; False where that is not known here."""
        await self.verify_account(gate)
        return await self._account.properties.is_over(key, gate)
