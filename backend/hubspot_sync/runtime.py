"""The worker's life inside an application or a script, and why there may be none."""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Event, Thread
from types import TracebackType
from typing import Self

from hubspot_sync.integration import Integration
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.gate.gate import GateShut
from sqlalchemy_outbox.gate.row import read_gate
from sqlalchemy_outbox.model import GateState

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
        if (reason_not_to := why_no_worker(self._integration, in_app=True)) is not None:
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


class WorkerThread:
    """Runs the worker in a thread of its own, for a WSGI application or a script; a `with` block starts and stops it.

    Threads do not survive a fork: under a server that forks after the application was loaded, such as gunicorn with
    `preload_app`, start it in each worker process, or run the command `worker` apart.
    """

    def __init__(self, integration: Integration) -> None:
        self._host = WorkerHost(integration)
        self._has_started = Event()
        self._loop: asyncio.AbstractEventLoop
        self._is_stopping: asyncio.Event
        self._thread: Thread | None = None

    @property
    def status(self) -> WorkerStatus:
        return self._host.status

    def start(self) -> Self:
        """Return once the worker runs, or the log says why not. It is stopped when Python ends, if not before."""
        if self._thread is None:
            self._has_started.clear()
            # A thread that is no daemon would be waited for before anybody could stop it.
            self._thread = Thread(target=lambda: asyncio.run(self._live()), name="hubspot-sync-worker", daemon=True)
            self._thread.start()
            atexit.register(self.stop)
            self._has_started.wait()
        return self

    def stop(self) -> None:
        """Return once what is in flight is finished, within the worker's deadline."""
        if (thread := self._thread) is None:
            return
        self._thread = None
        atexit.unregister(self.stop)
        self._loop.call_soon_threadsafe(self._is_stopping.set)
        thread.join()

    async def _live(self) -> None:
        self._loop, self._is_stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._host.start()
        finally:
            self._has_started.set()
        await self._is_stopping.wait()
        await self._host.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


async def deliver_due(integration: Integration, on_worker: Callable[[Worker], None] = lambda _worker: None) -> None:
    """Deliver what is due, whatever HUBSPOT_ENABLED says; raise GateShut when the gate kept some of it back.

    A script calls `asyncio.run(deliver_due(integration))`. `on_worker` is given the worker, to stop it by a signal.
    """
    async with integration.worker() as worker:
        on_worker(worker)
        await worker.drain()
    with integration.engine.connect() as connection:
        gate = read_gate(connection, integration.outbox)
    if gate.state is not GateState.OPEN:
        raise GateShut(gate)


def why_no_worker(integration: Integration, *, in_app: bool) -> WorkerStatus | None:
    """Say and log why no worker is to run here; None when one is."""
    settings = integration.settings
    if not settings.hubspot_enabled:
        log.info("HubSpot sync worker not started (HUBSPOT_ENABLED=false)")
        return WorkerStatus(WorkerState.DISABLED, "HUBSPOT_ENABLED=false")
    if in_app and not settings.hubspot_worker_in_app:
        log.info("HubSpot sync worker runs apart (HUBSPOT_WORKER_IN_APP=false)")
        start = f"HUBSPOT_WORKER_IN_APP=false: start {integration.command('worker')}"
        return WorkerStatus(WorkerState.ELSEWHERE, start)
    if (missing := settings.missing_for_live()) is not None:
        log.error("HubSpot sync worker not started: %s", missing)
        return WorkerStatus(WorkerState.NOT_CONFIGURED, missing)
    return None
