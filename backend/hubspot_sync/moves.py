"""An address moves from one subject's contact to another's by two events of ours, each under its own subject's claim.

an event of d claims the address that p's contact has ─▶ d's contact gets the rest of it, and p a RELEASE
RELEASE of p ─▶ p's contact loses the address, unless p has claimed it since ─▶ d gets a GRANT
GRANT of d   ─▶ d's contact gets the address, unless d has claimed another one since

The newest event that claimed an address has it in the end. No subject's events wait for another's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from hubspot_sync.event import DROPPED, Catalog, UnreadableEvent
from hubspot_sync.json_text import read_json
from sqlalchemy_outbox.model import ERASURE, Event
from sqlalchemy_outbox.outcome import FollowUp

# So often a released address may turn out to be taken still.
TRIES_MAX = 3


class MoveType(StrEnum):
    RELEASE = "address_release"
    GRANT = "address_grant"


MOVE_TYPES = tuple(move_type.value for move_type in MoveType)


def claimed_types(catalog: Catalog) -> list[str]:
    """The event types that a worker delivers: the application's, those of moves, and the erasure of a contact."""
    return [*catalog.types, *MOVE_TYPES, ERASURE]


@dataclass(frozen=True, slots=True)
class Move:
    """`claimed_by` is the `id` of the event that claimed the address, `claimant` whose event that was."""

    type: MoveType
    subject: str
    address: str
    claimed_by: int
    claimant: str
    tries: int = 0

    @classmethod
    def of(cls, event: Event, catalog: Catalog) -> Self | None:
        """The move that this event is; None when it is none. Raises UnreadableEvent."""
        if event.event_type not in MOVE_TYPES:
            return None
        try:
            payload = read_json(event.payload)
            is_dropped = catalog.email_field in payload.get(DROPPED, ())
            address = "" if is_dropped else payload[catalog.email_field]
            claimed_by = payload["claimed_by"]
            claimant, tries = payload["claimant"], payload["tries"]
        except (ValueError, KeyError, TypeError) as error:
            raise UnreadableEvent(f"{event.event_type} cannot be read: {type(error).__name__} {error}") from None
        return cls(MoveType(event.event_type), event.subject, address, claimed_by, claimant, tries)

    def follow_up(self, catalog: Catalog) -> FollowUp:
        payload: dict[str, object] = {catalog.subject_field: self.subject, catalog.email_field: self.address}
        payload |= {"claimed_by": self.claimed_by, "claimant": self.claimant, "tries": self.tries}
        return FollowUp(self.type.value, self.subject, payload)

    def granted(self) -> Move:
        """What comes when the address is free."""
        return Move(MoveType.GRANT, self.claimant, self.address, self.claimed_by, self.claimant, self.tries)


def said_by(event: Event, catalog: Catalog) -> dict[str, str | None]:
    """What a stored event says of its contact; None where that is not known, or only that the value was taken away."""
    move = Move.of(event, catalog)
    if move is None:
        return catalog.said_by(event)
    address = move.address or None if move.type is MoveType.GRANT else None
    return {catalog.key.name: event.subject, catalog.email.name: address}


def stripped(catalog: Catalog, event: Event) -> str | None:
    """The payload without the values that name a person, but with which ones there were; None where there are none."""
    try:
        payload = read_json(event.payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict):
        return None
    names = [name for name, value in payload.items() if name in catalog.personal_names and value is not None]
    if not names:
        return None
    kept = {name: value for name, value in payload.items() if name not in names}
    return json.dumps(kept | {DROPPED: sorted({*names, *payload.get(DROPPED, ())})})
