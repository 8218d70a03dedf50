"""The account's list of properties, asked when HubSpot says that some are missing: it knows which, of ours, and all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import timedelta

from hubspot_sync.claim_progress import ClaimProgress
from hubspot_sync.client import HubSpotClient
from hubspot_sync.errors import NoAnswer, Refused
from hubspot_sync.event import Catalog
from hubspot_sync.lack import Lack, names_in
from hubspot_sync.limits import call_in_control_slot
from hubspot_sync.provisioning import read_lack
from hubspot_sync.translation import ContactUpsert
from sqlalchemy_outbox.gate.gate import Gate

log = logging.getLogger(__name__)

# For so long events wait by what was found last; then the list is asked anew. `waits.LOOK_EVERY` is longer, so that
# what one process releases is not set apart again by what another remembers.
KNOWN_FOR = timedelta(seconds=10)
# One list serves several refusals that come at once.
_SHARED_FOR = timedelta(seconds=2)


class AccountProperties:
    """What one process knows of them."""

    def __init__(self, client: HubSpotClient, catalog: Catalog) -> None:
        self._client = client
        self._catalog = catalog
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self.lack = Lack()

    async def look(self, gate: Gate, since: float) -> Lack:
        """What the account lacks, by a list that was asked for at `since`, on the monotonic clock, or later.

        Raises GateShut, NoAnswer, or Refused, also for a list that cannot be understood.
        """
        async with self._asking:
            if self._asked_at >= since:
                return self.lack
            asked_at = time.monotonic()
            answer = await call_in_control_slot(gate, self._client.list_properties)
            # In a thread: an account may have thousands of properties.
            lack = await asyncio.to_thread(read_lack, answer, self._catalog)
            if lack.names and lack != self.lack:
                log.warning("Events that set what is lacking wait: %s", lack.key_trouble or lack.reason)
            self.lack, self._asked_at = lack, asked_at
            return lack

    async def set_apart_known(self, progress: ClaimProgress, gate: Gate) -> None:
        """Set apart, without a request that would fail, what sets properties that the account was found to lack."""
        lack = self.lack
        if lack.key_trouble is not None or not progress.sets_any_of(lack.names):
            return
        try:
            lack = await self.look(gate, time.monotonic() - KNOWN_FOR.total_seconds())
        except (NoAnswer, Refused):
            self.lack = Lack()
            return
        if lack.key_trouble is None:
            progress.set_apart(lack)

    async def set_apart_unnamed(self, upserts: Sequence[ContactUpsert], progress: ClaimProgress, gate: Gate) -> bool:
        """HubSpot refused these without a code: set apart what sets properties that the account lacks, if any does."""
        try:
            lack = await self.look(gate, time.monotonic() - _SHARED_FOR.total_seconds())
        except (NoAnswer, Refused):
            return False
        if lack.key_trouble is not None or not any(lack.names & upsert.properties.keys() for upsert in upserts):
            return False
        progress.set_apart(lack)
        return True

    async def is_over(self, key: str, gate: Gate) -> bool:
        """Whether the account has now what the key names; False where that is not known here."""
        names = names_in(key)
        if not {declared.name for declared in self._catalog.properties}.issuperset(names):
            # Of another release, whose workers know it.
            return False
        try:
            # Asked anew: the account may have been provisioned a moment ago.
            lack = await self.look(gate, time.monotonic())
        except (NoAnswer, Refused):
            return False
        return lack.key_trouble is None and lack.of(names).key != key
