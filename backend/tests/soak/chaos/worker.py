"""A worker process: `python -m tests.soak.chaos.worker`, told by NAME, DATABASE_URL and DESTINATION_URL."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import httpx2

from app.database import create_database_engine
from sqlalchemy_outbox.claiming.newer import Newer, Standing, may_be_overtaken
from sqlalchemy_outbox.delivering.worker import Worker
from sqlalchemy_outbox.destination import Claim
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Delivered, Outcome, Postponed
from tests.outbox.conftest import OUTBOX
from tests.outbox.queue import TYPES

REQUEST_TIMEOUT_SECONDS = 2.0
# Small, so that many requests are in flight and a fault never takes everything.
BATCH_SIZE = int(os.environ.get("BATCH_SIZE", 20))
REQUESTS_PER_SECOND = float(os.environ.get("REQUESTS_PER_SECOND", 200))


class Delivery:
    """One request per claim: its events in order, and who sends them under which claim."""

    def __init__(self, name: str, http: httpx2.AsyncClient) -> None:
        self._name = name
        self._http = http

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        newer = [newer.event for newer in await self._newer(claim)]
        permit = await gate.enter(claim.lease)
        body = {
            "worker": self._name,
            "token": claim.lease.token,
            # By the machine's monotonic clock, which is the same for all its processes.
            "left_at": time.monotonic(),
            "events": [_as_json(event) for event in sorted([*claim.events, *newer], key=lambda it: it.id)],
        }
        try:
            await self._http.post("/", json=body)
        except httpx2.TransportError as error:
            # Nobody knows whether it was applied.
            await gate.record_outage(permit, type(error).__name__)
            return {event.id: Postponed(is_in_doubt=True) for event in claim.events}
        await gate.record_success(permit)
        return {event.id: Delivered() for event in claim.events}

    async def _newer(self, claim: Claim) -> list[Newer]:
        """Of each subject what was delivered."""
        firsts = {event.subject: event for event in reversed(claim.events)}
        overtaken = [
            first
            for subject, first in firsts.items()
            if may_be_overtaken([event for event in claim.events if event.subject == subject])
        ]
        found = [newer for first in overtaken async for newer in claim.newer(first)]
        return [newer for newer in found if newer.standing is Standing.DELIVERED]


def _as_json(event: Event) -> dict[str, Any]:
    return {"id": event.id, "subject": event.subject, "n": json.loads(event.payload)["n"]}


async def _run(name: str, database_url: str, destination_url: str) -> None:
    engine = create_database_engine(database_url)
    gate = Gate(OUTBOX, engine, REQUESTS_PER_SECOND)
    async with httpx2.AsyncClient(base_url=destination_url, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False) as http:
        worker = Worker(OUTBOX, engine, Delivery(name, http), gate, types=TYPES, batch_size=BATCH_SIZE)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        logging.info("worker started")
        await worker.run()
    engine.dispose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    asyncio.run(_run(os.environ["NAME"], os.environ["DATABASE_URL"], os.environ["DESTINATION_URL"]))
