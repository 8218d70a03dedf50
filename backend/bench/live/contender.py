"""`python -m bench.live.contender DATABASE HUBSPOT`: what delivers, in a process of its own that is asked to.

`deliver` is the real worker; `send` is the least that sends the same bodies: httpx2, as many requests in flight, and of
each answer no more than whether it names every input.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
from sqlalchemy import create_engine

from app.events import CATALOG
from bench.live.drivers import Load
from bench.live.stub import PORTAL_ID
from bench.peers.protocol import serve
from bench.table import OUTBOX, count_open
from hubspot_sync.client import HubSpotClient
from hubspot_sync.integration import Integration
from hubspot_sync.provisioning import carry_out, plan_provisioning
from hubspot_sync.settings import HubSpotSettings

_TOKEN = "pat-na1-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
_PATH = "/crm/objects/2026-09/contacts/batch/upsert"
_ENGINE = create_engine(sys.argv[1])
_HUBSPOT = sys.argv[2]


def deliver(batch_size: int, concurrency: int = 4, rate: float = 1_000_000) -> dict[str, Any]:
    """Deliver the backlog that is there."""
    integration = _integration(batch_size, concurrency, rate)
    with _counting() as count:
        spent = _measured(lambda: asyncio.run(_drain(integration)))
    assert count_open(_ENGINE) == 0, "the worker has left something"
    return spent | {"requests": count()}


def hold(batch_size: int, concurrency: int = 4) -> dict[str, Any]:
    """How long one step of the event loop held it at most, in processor time of its thread.

    The process is warm: it has delivered before.
    """
    integration = _integration(batch_size, concurrency, 1_000_000)
    with _watching_steps() as longest:
        asyncio.run(_drain(integration))
    return {"milliseconds": 1000 * longest()}


def send(load: dict[str, Any], batch_size: int, concurrency: int = 4) -> dict[str, Any]:
    bodies = Load(**load).bodies(batch_size)
    return _measured(lambda: asyncio.run(_send(bodies, concurrency))) | {"requests": len(bodies)}


def peak() -> dict[str, Any]:
    """The most memory that this process has had; `getrusage` would count that of the process which started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return {"mebibytes": int(kibibytes) / 1024}


def _integration(batch_size: int, concurrency: int, rate: float) -> Integration:
    settings = HubSpotSettings(
        hubspot_enabled=True,
        hubspot_send_live=True,
        hubspot_private_app_token=_TOKEN,
        hubspot_portal_id=PORTAL_ID,
        hubspot_base_url=_HUBSPOT,
        hubspot_batch_size=batch_size,
        hubspot_concurrency=concurrency,
    )
    # Faster than a person may set it: the rate must not be what is measured.
    return Integration(settings.model_copy(update={"hubspot_requests_per_second": rate}), OUTBOX, CATALOG, _ENGINE)


def provision() -> dict[str, Any]:
    """Give the account the properties that the events set."""
    asyncio.run(_provision(_integration(100, 1, 1_000)))
    return {}


async def _provision(integration: Integration) -> None:
    gate = integration.gate()
    await gate.prepare()
    async with integration.client() as client:
        plan = await plan_provisioning(client, gate, CATALOG)
        async for _ in carry_out(plan, client, gate, CATALOG):
            pass


async def _drain(integration: Integration) -> None:
    async with integration.worker() as worker:
        await worker.drain()


async def _send(bodies: Sequence[Sequence[dict[str, object]]], concurrency: int) -> None:
    left = iter(bodies)
    headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
    async with httpx2.AsyncClient(base_url=_HUBSPOT, headers=headers, trust_env=False) as client:

        async def send_some() -> None:
            for inputs in left:
                content = json.dumps({"inputs": inputs}, separators=(",", ":")).encode()
                response = await client.post(_PATH, content=content)
                results = json.loads(response.content)["results"]
                named = {result["objectWriteTraceId"] for result in results}
                assert named == {one["objectWriteTraceId"] for one in inputs}

        await asyncio.gather(*(send_some() for _ in range(concurrency)))


def _measured(work: Callable[[], object]) -> dict[str, Any]:
    # As the command `worker` does.
    gc.collect()
    gc.freeze()
    began_at, processor_before = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - began_at, "processor": time.process_time() - processor_before}


@contextmanager
def _counting() -> Iterator[Callable[[], int]]:
    """How many requests carry events, reads of contacts included."""
    count = 0
    ask = HubSpotClient._ask

    async def counted(self: HubSpotClient, method: str, *others: Any) -> Any:
        nonlocal count
        count += method == "POST"
        return await ask(self, method, *others)

    with patch.object(HubSpotClient, "_ask", counted):
        yield lambda: count


@contextmanager
def _watching_steps() -> Iterator[Callable[[], float]]:
    longest = 0.0
    run = asyncio.Handle._run

    def measured(self: asyncio.Handle) -> None:
        nonlocal longest
        began = time.thread_time()
        run(self)
        took = time.thread_time() - began
        longest = max(longest, took)

    gc.collect()
    gc.freeze()
    with patch.object(asyncio.Handle, "_run", measured):
        yield lambda: longest


if __name__ == "__main__":
    serve({"deliver": deliver, "hold": hold, "send": send, "peak": peak, "provision": provision})
