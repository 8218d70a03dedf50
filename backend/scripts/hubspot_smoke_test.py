"""Create a test event, process it with the worker, and verify that it is marked processed.

    cd backend && python scripts/hubspot_smoke_test.py [--live]

Exit code 0 only if the event was processed. Where a worker runs already, either one may deliver it. The event is of a
driver who does not exist, with an address under example.com; live, that leaves a contact in HubSpot.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic import ValidationError
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.integration import load_integration
from app.logs import configure_nerava_logging
from app.models import OUTBOX
from app.services.hubspot import track_event
from hubspot_sync.integration import Integration
from sqlalchemy_outbox import GateState, State, operations
from sqlalchemy_outbox.gate.row import read_gate
from sqlalchemy_outbox.operations import EventSummary

DEADLINE_SECONDS = 60
LOOK_EVERY_SECONDS = 0.5


class SmokeTestFailed(Exception):
    """The reason, and what to do about it."""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--live", action="store_true", help="really send it to HubSpot")
    is_live_allowed = arguments.parse_args().live
    configure_nerava_logging()
    try:
        integration = load_integration()
    except ValidationError as error:
        print("✗ " + "; ".join(f"{str(it['loc'][0]).upper()}: {it['msg']}" for it in error.errors(include_input=False)))
        return 1
    try:
        check(integration, is_live_allowed=is_live_allowed)
        subject, event_id = create_event(integration)
        asyncio.run(process(integration, subject, event_id))
    except SmokeTestFailed as failure:
        print(f"✗ {failure}")
        return 1
    except DBAPIError as error:
        print(f"✗ The database failed: {str(error.orig).splitlines()[0]}")
        return 1
    print("✓ the event is marked processed")
    return 0


def check(integration: Integration, *, is_live_allowed: bool) -> None:
    settings = integration.settings
    if not settings.hubspot_enabled:
        raise SmokeTestFailed("HUBSPOT_ENABLED=false: nothing will be processed. Set HUBSPOT_ENABLED=true.")
    if settings.hubspot_send_live and not is_live_allowed:
        raise SmokeTestFailed(
            "HUBSPOT_SEND_LIVE=true: this would create a contact in HubSpot. Say --live if you mean it."
        )
    if (missing := settings.missing_for_live()) is not None:
        raise SmokeTestFailed(missing)
    if not inspect(integration.engine).has_table(OUTBOX.name):
        raise SmokeTestFailed(
            f"There is no table {OUTBOX.name} in this database, and this script migrates nothing: "
            "run `alembic upgrade head`."
        )
    mode = "live" if settings.hubspot_send_live else "dry run: nothing leaves this machine"
    print(f"  database {integration.engine.url.render_as_string()}, {mode}")


def create_event(integration: Integration) -> tuple[str, UUID]:
    subject = f"smoke-test-{uuid4()}"
    payload = {
        "user_id": subject,
        "email": f"{subject}@example.com",
        "auth_provider": "otp",
        "created_at": datetime.now(UTC).isoformat(),
    }
    with Session(integration.engine) as db, db.begin():
        event_id = track_event(db, "driver_signed_up", payload)
    print(f"✓ created event {event_id} (driver_signed_up of {subject})")
    return subject, event_id


async def process(integration: Integration, subject: str, event_id: UUID) -> None:
    """Deliver the event, or wait until a running worker has."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    async with integration.worker() as worker:
        while time.monotonic() < deadline:
            await worker.drain(subject)
            event = look_at(integration, event_id)
            if event is not None and event.state is State.DELIVERED:
                return
            if event is None or event.state is State.FAILED:
                raise SmokeTestFailed(f"The event failed: {event and event.last_error}")
            raise_if_gate_is_shut(integration)
            await asyncio.sleep(LOOK_EVERY_SECONDS)
    raise SmokeTestFailed(
        f"The event is still {event.state} after {DEADLINE_SECONDS} s; its last error: {event.last_error}"
    )


def look_at(integration: Integration, event_id: UUID) -> EventSummary | None:
    return next(iter(operations.read_events(integration.engine, OUTBOX, [event_id])), None)


def raise_if_gate_is_shut(integration: Integration) -> None:
    with integration.engine.connect() as connection:
        gate = read_gate(connection, OUTBOX)
    if gate.state is not GateState.OPEN:
        raise SmokeTestFailed(f"Deliveries are {gate.state} until {gate.until}: {gate.reason}")


if __name__ == "__main__":
    sys.exit(main())
