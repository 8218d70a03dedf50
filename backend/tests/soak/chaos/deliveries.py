"""What arrived at the destination, compared with what happened to the events.

A request is unfinished for an event that its claim did not settle as delivered. The event will be sent again, and only
a fault that caught the request under way may be the reason: one that hit its worker while it held the event, or the
destination's own silence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy_outbox.model import ATTEMPTS_MAX
from tests.rate import most_in_a_second
from tests.soak.chaos.destination import Request, Sent
from tests.soak.chaos.history import History
from tests.soak.chaos.worker import REQUESTS_PER_SECOND

_IN_A_SECOND_MAX = 1.1 * REQUESTS_PER_SECOND + 2


@dataclass(frozen=True, slots=True)
class Arrival:
    request: Request
    sent: Sent

    @property
    def hold(self) -> tuple[int, str]:
        return self.sent.id, self.request.token


@dataclass(frozen=True)
class Deliveries:
    """`journal` has the requests in the order in which they were applied; `state` is what they left."""

    journal: Sequence[Request]
    state: Mapping[str, int]
    history: History

    def objections(self) -> Iterator[str]:
        yield from self._about_strangers()
        yield from self._about_deliveries_that_never_arrived()
        yield from self._about_repeats()
        yield from self._about_order()
        yield from self._about_state()
        yield from self._about_rate()

    def figures(self) -> dict[str, object]:
        late = set(self._late)
        return {
            "requests": len(self.journal),
            f"most requests that left within a second, of {_IN_A_SECOND_MAX:g}": self._most_in_a_second,
            "in flight at a fault, events": self._caught,
            "repeats, events": self._repeats,
            "requests that arrived after their claim was lost": len({it.request.token for it in self._late}),
            "order broken, subjects put back by a request that arrived late": sum(
                it in late for it, _ in self._steps_back
            ),
            "order broken, subjects put back by a repeat": sum(it not in late for it, _ in self._steps_back),
        }

    def _about_strangers(self) -> Iterator[str]:
        for it in self._arrivals:
            row = self.history.row_of.get(it.sent.id)
            if row is None or (row.subject, row.n) != (it.sent.subject, it.sent.n):
                yield f"what arrived is no committed event: {it.sent}"

    def _about_deliveries_that_never_arrived(self) -> Iterator[str]:
        arrived_at = {it.hold: it.request.arrived_at for it in self._arrivals}
        for hold, settled_at in self.history.delivered_under.items():
            if arrived_at.get(hold, float("inf")) > settled_at:
                yield f"event {hold[0]} was settled as delivered before its claim's request had arrived"

    def _about_repeats(self) -> Iterator[str]:
        for it in self._unfinished:
            if not self._is_caught(it):
                yield f"{it.sent} is sent again after a request of {it.request.worker} that no fault caught"
        if self._repeats > self._caught:
            yield f"{self._repeats} events were repeated, and {self._caught} were in flight at a fault"

    def _about_order(self) -> Iterator[str]:
        """Nothing is passed over but what has failed, and only a request that a fault caught puts a subject back."""
        reached: defaultdict[str, int] = defaultdict(int)
        failed = {(it.subject, it.n) for it in self.history.rows if it.attempt_count == ATTEMPTS_MAX}
        for it in self._arrivals:
            between = {(it.sent.subject, n) for n in range(reached[it.sent.subject] + 1, it.sent.n)}
            if between - failed:
                yield f"{it.sent} arrived, and nothing yet between {reached[it.sent.subject]} and it"
            reached[it.sent.subject] = max(reached[it.sent.subject], it.sent.n)
        for back, ahead in self._steps_back:
            if self._is_finished(back) and self._is_finished(ahead):
                yield f"{back.sent} arrived after {ahead.sent}, and no fault caught either of the requests"

    def _about_state(self) -> Iterator[str]:
        for subject, n in self.history.load.reached().items():
            if self.state.get(subject, 0) != n:
                yield f"{subject} is at {n}, and the destination has {self.state.get(subject)}"

    def _about_rate(self) -> Iterator[str]:
        if self._most_in_a_second > _IN_A_SECOND_MAX:
            yield f"{self._most_in_a_second} requests left within a second"

    @cached_property
    def _most_in_a_second(self) -> int:
        return most_in_a_second(it.left_at for it in self.journal)

    @cached_property
    def _arrivals(self) -> list[Arrival]:
        return [Arrival(it, sent) for it in self.journal for sent in sorted(it.events, key=lambda sent: sent.n)]

    def _is_finished(self, arrival: Arrival) -> bool:
        return arrival.hold in self.history.delivered_under

    def _is_caught(self, arrival: Arrival) -> bool:
        return arrival.request.is_answered_late or self.history.is_hit(arrival.hold)

    @cached_property
    def _unfinished(self) -> list[Arrival]:
        return [it for it in self._arrivals if not self._is_finished(it)]

    @cached_property
    def _caught(self) -> int:
        return sum(map(self._is_caught, self._arrivals))

    @cached_property
    def _repeats(self) -> int:
        return len(self._arrivals) - len({it.sent.id for it in self._arrivals})

    @cached_property
    def _late(self) -> list[Arrival]:
        left_at = self.history.left_at
        return [it for it in self._arrivals if left_at.get(it.hold, float("inf")) < it.request.arrived_at]

    @cached_property
    def _steps_back(self) -> list[tuple[Arrival, Arrival]]:
        """A request's last event of a subject that another one had overtaken, and the one that had."""
        found = []
        ahead: dict[str, Arrival] = {}
        for request in self.journal:
            lasts = {it.subject: Arrival(request, it) for it in sorted(request.events, key=lambda sent: sent.n)}
            for subject, last in lasts.items():
                if subject in ahead and last.sent.n < ahead[subject].sent.n:
                    found.append((last, ahead[subject]))
                else:
                    ahead[subject] = last
        return found
