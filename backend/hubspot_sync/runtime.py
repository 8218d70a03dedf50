"""The worker's life inside an application, and why there may be none."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import StrEnum

from hubspot_sync.integration import Integration
from hubspot_sync.settings import HubSpotSettings
from sqlalchemy_outbox.delivering.worker import Worker

log = logging.getLogger(__name__)


class WorkerState(StrEnum):
    RUNNING = "running"
    DISABLED = "disabled"
    ELSEWHERE = "elsewhere"
    NOT_CONFIGURED = "not_configured"
    STOPPED = "stopped"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """`reason` says in words why the worker does not run; empty while it does."""

    state: WorkerState
    reason: str = ""

    def as_json(self) -> dict[str, str]:
        return {"state": self.state.value, "reason": self.reason}


class WorkerHost:
    """Runs the worker inside an application, from `start` to `stop`; whatever becomes of it, the application serves."""

    def __init__(self, integration: Integration) -> None:
        self._integration = integration
        self._status = WorkerStatus(WorkerState.STOPPED, "the application has not started it yet")
        self._worker: Worker | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> WorkerStatus:
        return self._status

    async def start(self) -> None:
        """Start the worker, or log in one line why not. Events are stored in either case."""
        if (reason_not_to := why_no_worker(self._integration.settings, in_app=True)) is not None:
            self._status = reason_not_to
            return
        self._status = WorkerStatus(WorkerState.RUNNING)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._note_end)

    async def stop(self) -> None:
        """Stop the worker; what is in flight is finished first, within the worker's deadline."""
        if self._task is None:
            return
        if self._worker is None:
            self._task.cancel()
        else:
            self._worker.stop()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._status.state is WorkerState.RUNNING:
            self._status = WorkerStatus(WorkerState.STOPPED, "the application is stopping")

    async def _run(self) -> None:
        async with self._integration.worker() as worker:
            self._worker = worker
            log.info("HubSpot sync worker started")
            await worker.run()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        self._status = WorkerStatus(WorkerState.DEAD, "an error ended it; the log has it")
        log.critical("HubSpot sync worker ended; events wait until the application restarts.", exc_info=error)


def why_no_worker(settings: HubSpotSettings, *, in_app: bool) -> WorkerStatus | None:
    """Say and log why no worker is to run here; None when one is."""
    if not settings.hubspot_enabled:
        log.info("HubSpot sync worker not started (HUBSPOT_ENABLED=false)")
        return WorkerStatus(WorkerState.DISABLED, "HUBSPOT_ENABLED=false")
    if in_app and not settings.hubspot_worker_in_app:
        log.info("HubSpot sync worker runs apart (HUBSPOT_WORKER_IN_APP=false)")
        return WorkerStatus(WorkerState.ELSEWHERE, "HUBSPOT_WORKER_IN_APP=false: start `python -m app.cli worker`")
    if (missing := settings.missing_for_live()) is not None:
        log.error("HubSpot sync worker not started: %s", missing)
        return WorkerStatus(WorkerState.NOT_CONFIGURED, missing)
    return None
