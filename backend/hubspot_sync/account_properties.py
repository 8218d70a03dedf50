"""The account's list of properties, asked when HubSpot says that some are missing: it knows which, of ours, and all."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta

from hubspot_sync.client import HubSpotClient
from hubspot_sync.event import Catalog
from hubspot_sync.lack import Lack
from hubspot_sync.limits import call_aside
from hubspot_sync.provisioning import read_lack
from outbox.gate import Gate

log = logging.getLogger(__name__)

# For so long events wait by what was found last; then the list is asked anew. `waits.LOOK_EVERY` is longer, so that
# what one process releases is not set apart again by what another remembers.
KNOWN_FOR = timedelta(seconds=10)


class AccountProperties:
    """What one process knows of them."""

    def __init__(self, client: HubSpotClient, catalog: Catalog) -> None:
        self._client = client
        self._catalog = catalog
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self.lack = Lack()

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() - self._asked_at < KNOWN_FOR.total_seconds()

    def forget(self) -> None:
        self.lack = Lack()

    async def look(self, gate: Gate, since: float) -> Lack:
        """What the account lacks, by a list that was asked for at `since`, on the monotonic clock, or later.

        Raises GateShut, NoAnswer, or Refused, also for a list that cannot be understood.
        """
        async with self._asking:
            if self._asked_at >= since:
                return self.lack
            asked_at = time.monotonic()
            answer = await call_aside(gate, self._client.list_properties)
            # In a thread: an account may have thousands of properties.
            lack = await asyncio.to_thread(read_lack, answer, self._catalog)
            if lack.names and lack != self.lack:
                log.warning("Events that set what is lacking wait: %s", lack.key_trouble or lack.reason)
            self.lack, self._asked_at = lack, asked_at
            return lack
