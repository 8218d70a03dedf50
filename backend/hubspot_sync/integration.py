"""An application's HubSpot integration: its settings, outbox, events and database, and the worker made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from hubspot_sync.client import HubSpotClient
from hubspot_sync.delivery import DryRun, LiveDelivery
from hubspot_sync.event import Catalog
from hubspot_sync.settings import HubSpotSettings
from outbox.gate import Gate
from outbox.model import Outbox
from outbox.worker import Deliver, Worker


@dataclass(frozen=True, slots=True)
class Integration:
    """What an application hands over."""

    settings: HubSpotSettings
    outbox: Outbox
    catalog: Catalog
    engine: Engine

    def client(self) -> HubSpotClient:
        """HubSpot as the settings say; use it as an async context manager."""
        return HubSpotClient(
            self.settings.hubspot_base_url,
            self.settings.hubspot_private_app_token,
            self.settings.hubspot_api_version,
            connections=self.settings.hubspot_concurrency,
        )

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker that delivers live or dry-runs, as the settings say."""
        if not self.settings.hubspot_send_live:
            yield self._worker(DryRun(self.catalog))
            return
        async with self.client() as client:
            yield self._worker(LiveDelivery(client, self.catalog, self.settings.hubspot_portal_id))

    def _worker(self, deliver: Deliver) -> Worker:
        gate = Gate(self.outbox, self.engine, self.settings.hubspot_requests_per_second)
        return Worker(
            self.outbox,
            self.engine,
            deliver,
            gate,
            types=self.catalog.types,
            batch_size=self.settings.hubspot_batch_size,
            concurrency=self.settings.hubspot_concurrency,
            retention=timedelta(days=self.settings.hubspot_retention_days),
        )
