"""What a worker hands to a destination, and what it asks of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from outbox.deliveries import Delivery
from outbox.gate import Gate
from outbox.lease import Lease
from outbox.model import Event
from outbox.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Claim:
    """Events in hand, in order, and the lease under which they may be delivered.

    `newer` are delivered events of their subjects that a retried event precedes: what they said must stand.
    """

    lease: Lease
    events: Sequence[Event]
    newer: Sequence[Event] = ()
    noted: list[Delivery] = field(default_factory=list, repr=False)

    def note(self, delivery: Delivery) -> None:
        """Keep what a request came to; it is written when the claim ends, however it does."""
        self.noted.append(delivery)


Deliver = Callable[[Claim, Gate], Awaitable[Mapping[int, Outcome]]]
"""A destination: try to deliver the claim's events, and return an outcome for each event's `id`.

Each request first passes `gate.enter(claim.lease)`. A subject's events are delivered in order, and nothing behind one
that did not get through; or they are merged into one request, and all of them get its outcome.
"""
