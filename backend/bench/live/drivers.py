"""The events that are delivered live: Nerava's own, as long as Nerava's are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid5

from sqlalchemy import Engine, insert

from app.events import CATALOG
from bench.table import OUTBOX, empty, vacuum
from hubspot_sync.translation import ContactUpsert, requests, translate
from sqlalchemy_outbox.model import Event

_NAMESPACE = UUID("6d1d8a0e-5b8f-4f4f-9c2a-0c4a5f1f6f3b")
_AT = datetime(2026, 11, 24, 18, tzinfo=UTC)
_WRITTEN_AT_ONCE = 5_000
# So many drivers in ten are known to HubSpot by their address only, where the keys are mixed.
_LEADS_IN_TEN = 1
LEAD = "lead-"
"""How the address of a contact begins that the stub has without our id."""


@dataclass(frozen=True, slots=True)
class Load:
    """`events` in all, so many of each driver in a row; `is_mixed`: some contacts are found by their address.

    `padding` is how many characters each payload has in a field that no property is set by.
    """

    events: int
    of_a_driver: int = 1
    is_mixed: bool = False
    padding: int = 0

    @property
    def contacts(self) -> int:
        return self.events // self.of_a_driver

    def store(self, engine: Engine) -> None:
        """Leave these events, due at once, and nothing else."""
        rows = [_row(event) for event in self._events()]
        with engine.begin() as connection:
            empty(connection)
            for start in range(0, len(rows), _WRITTEN_AT_ONCE):
                connection.execute(insert(OUTBOX.events), rows[start : start + _WRITTEN_AT_ONCE])
        vacuum(engine)

    def bodies(self, batch_size: int) -> list[list[dict[str, object]]]:
        """The inputs of each request that the events come to, addressed as HubSpot has the contacts."""
        events = list(self._events())
        bodies = []
        for start in range(0, len(events), batch_size):
            upserts = [_addressed(upsert) for upsert in translate(events[start : start + batch_size], CATALOG).upserts]
            bodies += [[upsert.as_input() for upsert in request] for request in requests(upserts)]
        return bodies

    def _events(self) -> Iterator[Event]:
        for number in range(self.events):
            driver, step = divmod(number, self.of_a_driver)
            event_type, payload = self._event(driver, step if self.of_a_driver > 1 else driver % len(_SAID))
            user_id = str(payload["user_id"])
            event_id = uuid5(_NAMESPACE, f"event {number}")
            text = json.dumps(payload, separators=(",", ":"))
            yield Event(number + 1, event_id, event_type, user_id, text, _AT, 0, None, None, None)

    def _event(self, driver: int, step: int) -> tuple[str, dict[str, object]]:
        is_lead = self.is_mixed and driver % 10 < _LEADS_IN_TEN
        about: dict[str, object] = {"user_id": str(uuid5(_NAMESPACE, f"driver {driver}")), "stage": "earning"}
        # A driver has the one address that she signed in by.
        if is_lead or driver % 2:
            about["email"] = f"{LEAD if is_lead else ''}driver-{driver}@example.com"
        else:
            about["phone"] = f"+4917{driver:08}"
        if self.padding:
            about["note"] = "x" * self.padding
        event_type, said = _SAID[step % len(_SAID)]
        return event_type, about | said


_SAID: list[tuple[str, dict[str, object]]] = [
    ("driver_signed_up", {"created_at": "2026-11-24T18:00:00.123Z", "auth_provider": "otp"}),
    ("wallet_pass_installed", {"pass_type": "apple", "installed_at": "2026-11-24T18:05:00.123Z"}),
    (
        "nova_earned",
        {
            "amount": 120,
            "session_id": "7b1f8f6e-6f0c-4c56-9a55-0d0f3c7f1a11",
            "earned_at": "2026-11-24T19:00:00.123Z",
            "new_balance": 1_120,
            "lifetime_earned": 4_120,
            "earned_count": 17,
        },
    ),
    (
        "nova_redeemed",
        {
            "amount": 300,
            "merchant_id": "coffee-at-the-hub",
            "redemption_id": "0f9d2a55-2f27-4a0b-8d5d-0f6f0b6f8f10",
            "redeemed_at": "2026-11-24T19:20:00.123Z",
            "new_balance": 820,
            "lifetime_redeemed": 3_300,
            "redeemed_count": 5,
        },
    ),
    (
        "nova_earned",
        {
            "amount": 90,
            "session_id": "aa0c1d52-8f3b-46d1-94b4-0e6f7f1b2c33",
            "earned_at": "2026-11-24T20:00:00.123Z",
            "new_balance": 910,
            "lifetime_earned": 4_210,
            "earned_count": 18,
        },
    ),
]


def _row(event: Event) -> dict[str, object]:
    about = {"event_type": event.event_type, "subject": event.subject, "payload": event.payload}
    return {"event_id": event.event_id, "created_at": _AT, "available_at": _AT, **about}


def _addressed(upsert: ContactUpsert) -> ContactUpsert:
    return upsert.by_email() if (upsert.email or "").startswith(LEAD) else upsert
