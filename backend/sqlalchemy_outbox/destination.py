"""What a worker hands to a destination, and what it asks of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy_outbox.claiming.newer import PAGE_SIZE, Newer
from sqlalchemy_outbox.erasure.erasures import Known
from sqlalchemy_outbox.gate.gate import Gate
from sqlalchemy_outbox.lease import Lease
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Outcome
from sqlalchemy_outbox.settling.deliveries import Delivery

ReadNewer = Callable[[Event, int | None], Awaitable[list[Newer]]]
KnownTypes = Callable[[], Awaitable[frozenset[str]]]
ReadKnown = Callable[[Event], Awaitable[Known]]
ReadMentions = Callable[[Event, Sequence[str]], Awaitable[list[Event]]]


async def _nothing_newer(_first: Event, _before: int | None) -> list[Newer]:
    return []


async def _no_types() -> frozenset[str]:
    return frozenset()


async def _nothing_known(_erasure: Event) -> Known:
    return Known(None, {})


async def _no_mentions(_erasure: Event, _texts: Sequence[str]) -> list[Event]:
    return []


@dataclass(frozen=True, slots=True)
class Claim:
    """Events in hand, in order, and the lease under which they may be delivered.

    `known_types` are the event types that some worker knows, of whatever release. Of an erasure's subject, whose events
    are gone, `known` is what there is to know, and `mentions` are others' events that may mention one of some texts.
    """

    lease: Lease
    events: Sequence[Event]
    noted: list[Delivery] = field(default_factory=list, repr=False)
    read_newer: ReadNewer = field(default=_nothing_newer, repr=False)
    known_types: KnownTypes = field(default=_no_types, repr=False)
    known: ReadKnown = field(default=_nothing_known, repr=False)
    mentions: ReadMentions = field(default=_no_mentions, repr=False)
    # Those that are not delivered, by `id`, with their subjects' names: their subjects were forgotten.
    refused: Mapping[int, str] = field(default_factory=dict)

    def note(self, delivery: Delivery) -> None:
        """Keep what a request came to; it is written when the claim ends, however it does."""
        self.noted.append(delivery)

    async def newer(self, first: Event) -> AsyncIterator[Newer]:
        """What is newer than this event of its subject and may stand already, or wait; newest first, without end.

        A claimed event must not undo it, so who merges or divides a subject's events looks here first: when
        `may_be_overtaken` says so, and as far as it is needed.
        """
        claimed = {event.id for event in self.events}
        before: int | None = None
        while page := await self.read_newer(first, before):
            for newer in page:
                if newer.event.id not in claimed:
                    yield newer
            if len(page) < PAGE_SIZE:
                return
            before = page[-1].event.id


Deliver = Callable[[Claim, Gate], Awaitable[Mapping[int, Outcome]]]
"""A destination: try to deliver the claim's events, and return an outcome for each event's `id`.

Each request first passes `gate.enter(claim.lease)`. A subject's events are delivered in order, and nothing behind one
that did not get through; or they are merged into one request, and all of them get its outcome.
"""

IsOver = Callable[[str, Gate], Awaitable[bool]]
"""What a destination that sets events apart is asked: is what this key names there now? False where nobody knows.

A request that this takes goes in a control slot of the gate; GateShut may be raised.
"""
