"""An application's HubSpot integration: its settings, outbox, events and database, and the worker made of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hubspot_sync.moves import claimed_types
from sqlalchemy_outbox.gate.gate import Gate, GateShut
from sqlalchemy_outbox.model import ERASURE, Outbox

if TYPE_CHECKING:
    from hubspot_sync.client import HubSpotClient
    from hubspot_sync.delivery import LiveDelivery
    from hubspot_sync.event import Catalog
    from hubspot_sync.present_state import PresentState
    from hubspot_sync.settings import HubSpotSettings
    from sqlalchemy_outbox.delivering.worker import Worker
    from sqlalchemy_outbox.destination import Deliver, IsOver
    from sqlalchemy_outbox.erasure.personal_data import Stripping

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Integration:
    """What an application hands over.

    What talks to HubSpot, and the worker, are imported where they are made: most commands need neither.

    `migration_missing` says in words which of its migrations a database lacks, None when none; without it the outbox's
    own steps are looked for. `migrate_with` is the command that migrates: `alembic upgrade head`, say.
    `present_state` is what `resync` asks how subjects stand; without it nothing can be sent anew.
    `listen_engine` is a way to the same database that tells a worker of commits, where `engine`'s does not. `version`
    is what a worker tells people that it is.
    `command_line` is how its commands are called, as texts name them: `python -m shop.hubspot`, say.
    """

    settings: HubSpotSettings
    outbox: Outbox
    catalog: Catalog
    engine: Engine
    migration_missing: Callable[[Connection], str | None] | None = None
    present_state: PresentState | None = None
    listen_engine: Engine | None = None
    version: str = ""
    command_line: str = ""
    migrate_with: str = ""
    _gate: Gate = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        gate = Gate(self.outbox, self.engine, self.settings.hubspot_requests_per_second)
        object.__setattr__(self, "_gate", gate)
        # Who was forgotten is known in this process by the key that the settings say.
        self.outbox.names.use_key(self.settings.hubspot_erasure_key.get_secret_value())

    def command(self, verb: str) -> str:
        """A command as a person types it."""
        return f"`{self.command_line} {verb}`" if self.command_line else f"the command `{verb}`"

    @property
    def how_to_migrate(self) -> str:
        return f"run `{self.migrate_with}`" if self.migrate_with else "run your application's migrations"

    def missing_file(self) -> str | None:
        """The SQLite file that the engine is for, where there is none; connecting would make an empty one."""
        url = self.engine.url
        if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith(("file:", ":memory:")):
            return None
        return None if Path(url.database).exists() else url.database

    def missing_in(self, connection: Connection) -> str | None:
        """Which migration the database lacks, in words; None when it has all."""
        if self.migration_missing is not None:
            return self.migration_missing(connection)
        from sqlalchemy_outbox import migrations  # noqa: PLC0415  # As in `worker`.

        lacking = [f"{step.number} ({step.title})" for step in migrations.missing(connection, self.outbox)]
        return f"The outbox's tables lack step {', then '.join(lacking)}" if lacking else None

    def dispose(self) -> None:
        """Close the connections of its engines."""
        for engine in (self.engine, self.listen_engine):
            if engine is not None:
                engine.dispose()

    @property
    def types(self) -> list[str]:
        """The event types that a worker with these settings delivers.

        A dry run uses events up, and an erasure may not be: it waits for a worker that sends live.
        """
        return [type_ for type_ in claimed_types(self.catalog) if type_ != ERASURE or self.settings.hubspot_send_live]

    def client(self) -> HubSpotClient:
        """HubSpot as the settings say; use it as an async context manager."""
        from hubspot_sync import telemetry  # noqa: PLC0415  # As above.
        from hubspot_sync.client import HubSpotClient  # noqa: PLC0415

        return HubSpotClient(
            self.settings.hubspot_base_url,
            self.settings.hubspot_private_app_token,
            self.settings.hubspot_api_version,
            connections=self.settings.hubspot_concurrency,
            on_call=telemetry.note_call,
        )

    @asynccontextmanager
    async def worker(self, *, random: Random | None = None) -> AsyncIterator[Worker]:
        """A worker that delivers live or dry-runs, as the settings say. `random` draws how long events back off."""
        from hubspot_sync.delivery import LiveDelivery  # noqa: PLC0415  # As above.
        from hubspot_sync.dry_run import DryRun  # noqa: PLC0415

        if not self.settings.hubspot_send_live:
            yield self._worker(DryRun(self.catalog), random)
            return
        async with self.client() as client:
            delivery = LiveDelivery(
                client,
                self.catalog,
                self.settings.hubspot_portal_id,
                daily_reserve=self.settings.hubspot_daily_reserve,
                random=Random(),  # noqa: S311  # Jitter is no secret.
            )
            look = asyncio.create_task(self._look_at_account(delivery))
            try:
                yield self._worker(delivery, random, delivery.is_over)
            finally:
                look.cancel()
                await asyncio.wait([look])
                if not look.cancelled() and (error := look.exception()) is not None:
                    log.error("The look at the account failed.", exc_info=error)

    def gate(self) -> Gate:
        """The one of this process: whoever asks HubSpot by it learns the account's pace for all."""
        return self._gate

    async def _look_at_account(self, delivery: LiveDelivery) -> None:
        """Find out at start, and not with the first event, that a token is wrong. The worker does not wait for it."""
        gate = self.gate()
        try:
            await gate.prepare()
            await delivery.verify_account(gate)
        except GateShut as shut:
            log.debug("The account was not looked at, or is not the one that was meant: %s", shut)
        except (DBAPIError, PoolTimeout):
            log.debug("The account was not looked at, because the database does not serve the outbox.")

    def _stripping(self) -> Stripping | None:
        from hubspot_sync.moves import stripped  # noqa: PLC0415  # As above.
        from sqlalchemy_outbox.erasure.personal_data import Stripping  # noqa: PLC0415

        if not (days := self.settings.hubspot_personal_data_days):
            return None
        return Stripping(self.outbox, timedelta(days=days), partial(stripped, self.catalog))

    def _worker(self, deliver: Deliver, random: Random | None, is_over: IsOver | None = None) -> Worker:
        from hubspot_sync import telemetry  # noqa: PLC0415  # As above.
        from hubspot_sync.forgetting import remember  # noqa: PLC0415
        from sqlalchemy_outbox.delivering.worker import Worker  # noqa: PLC0415

        return Worker(
            self.outbox,
            self.engine,
            deliver,
            self.gate(),
            types=self.types,
            remember=partial(remember, self.catalog),
            batch_size=self.settings.hubspot_batch_size,
            concurrency=self.settings.hubspot_concurrency,
            retention=timedelta(days=self.settings.hubspot_retention_days),
            stripping=self._stripping(),
            random=random,
            on_settled=telemetry.note_settled(self.outbox),
            is_over=is_over,
            listen_engine=self.listen_engine,
            version=self.version,
        )
