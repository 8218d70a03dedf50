"""A warehouse tells its carrier about parcels: the outbox with a table and a destination of another domain.

The carrier is down at first; each order's parcels still arrive in order, and only those that were committed.
Run it with `backend/` on the path: `PYTHONPATH=backend python examples/parcels.py`.
"""

import asyncio
import json
import tempfile
from collections.abc import Mapping

from sqlalchemy import MetaData
from sqlalchemy.orm import Session

from sqlalchemy_outbox import Claim, Delivered, Gate, Outcome, Postponed, Worker, define_outbox, enqueue, worker_engine

parcel_events = define_outbox(MetaData(), "parcel_events")


class Carrier:
    """Refuses the first call, then takes what it is given."""

    calls = 0

    async def __call__(self, claim: Claim, gate: Gate) -> Mapping[int, Outcome]:
        permit = await gate.enter(claim.lease)  # At most so many calls a second, from all workers together.
        self.calls += 1
        if self.calls == 1:
            await gate.record_outage(permit, "the carrier does not answer")
            return dict.fromkeys((event.id for event in claim.events), Postponed())
        for event in claim.events:
            print(event.subject, event.event_type, json.loads(event.payload)["parcel"])
        return {event.id: Delivered() for event in claim.events}


async def main(folder: str) -> None:
    engine = worker_engine(f"sqlite:///{folder}/warehouse.db")
    parcel_events.events.metadata.create_all(engine)
    with Session(engine) as db, db.begin():
        enqueue(db, parcel_events, "packed", "order-1", {"parcel": "A"})
        enqueue(db, parcel_events, "handed_over", "order-1", {"parcel": "A"})
    with Session(engine) as db:
        enqueue(db, parcel_events, "packed", "order-2", {"parcel": "B"})
        db.rollback()
    gate = Gate(parcel_events, engine, requests_per_second=5)
    await Worker(parcel_events, engine, Carrier(), gate, types=["packed", "handed_over"]).drain()
    engine.dispose()


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(folder))
