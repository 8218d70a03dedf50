"""What a load balancer and an alert ask. HubSpot's trouble is an alert; it takes no application out of service."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.dependencies import Running, RunningApp
from app.problems import DatabaseUnavailable, Problem, describe
from hubspot_sync import WorkerState, read_health
from sqlalchemy_outbox import GateState

router = APIRouter(tags=["health"])


class NotMigrated(Problem):
    """The database lacks a migration: run `cd backend && alembic upgrade head`."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "not-migrated"
    title = "Database not migrated"


class WorkerNotRunning(Problem):
    """No worker runs in this process; `detail` says why."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "worker-not-running"
    title = "HubSpot worker not running"


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Worker(BaseModel):
    state: WorkerState
    reason: str = Field(description="Why it does not run; empty while it does.")

    @classmethod
    def of(cls, running: Running) -> Worker:
        status = running.hubspot.worker.status
        return cls(state=status.state, reason=status.reason)


class Gate(BaseModel):
    state: GateState
    until: datetime | None = None


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    worker: Worker
    gate: Gate
    behind: list[str] = Field(default=[], description="Sequences that lie behind their ids, as after a restore.")


@router.get("/healthz", summary="The process lives")
async def healthz() -> Alive:
    return Alive()


@router.get(
    "/readyz",
    summary="Requests can be served: the database is reachable and migrated",
    responses=describe(DatabaseUnavailable, NotMigrated),
)
def readyz(running: RunningApp) -> Ready:
    health = read_health(running.hubspot.integration)
    if health.missing is not None:
        raise NotMigrated(f"{health.missing} Run `cd backend && alembic upgrade head`.")
    gate = Gate(state=health.gate, until=health.until)
    return Ready(worker=Worker.of(running), gate=gate, behind=health.behind)


@router.get(
    "/readyz/worker",
    summary="The worker in this process runs",
    responses=describe(WorkerNotRunning),
)
async def readyz_worker(running: RunningApp) -> Worker:
    worker = Worker.of(running)
    if worker.state is not WorkerState.RUNNING:
        raise WorkerNotRunning(f"The worker is {worker.state.replace('_', ' ')}: {worker.reason}")
    return worker
