"""One claim on its way: what is left to send of each subject, in order, and the outcomes so far."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace

from hubspot_sync.classification import RefusedWhole
from hubspot_sync.lack import Lack
from hubspot_sync.translation import ContactUpsert, Contribution, Translation
from sqlalchemy_outbox.model import Event
from sqlalchemy_outbox.outcome import Delivered, Outcome, Place, Postponed, Rejected, Retry, Waiting

_DELIVERED = Delivered()


class ClaimProgress:
    """A subject's inputs are sent one after the other: what is behind one that did not get through goes back."""

    def __init__(self, events: Iterable[Event], translation: Translation) -> None:
        self._outcomes: dict[int, Outcome] = dict.fromkeys([event.id for event in events], Postponed())
        self._outcomes |= translation.not_sent
        self._in_doubt: set[int] = set()
        self.has_accepted = False
        # Of what the account lacks: its list contradicted HubSpot's refusal once.
        self.has_doubted_hubspot = False
        self.suspects: list[tuple[ContactUpsert, RefusedWhole]] = []
        self._left = {upsert.subject: [upsert] for upsert in translation.upserts}

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """One for each event; one of which nobody knows whether it was applied says so, unless it was delivered."""
        outcomes = dict(self._outcomes)
        for id_ in self._in_doubt:
            if isinstance(outcome := outcomes[id_], Retry | Postponed | Waiting):
                outcomes[id_] = replace(outcome, is_in_doubt=True)
        return outcomes

    def leave_in_doubt(self, upserts: Iterable[ContactUpsert]) -> None:
        """A request that carried them may have been applied, and nothing confirmed it."""
        self._in_doubt.update(event.id for upsert in upserts for event in upsert.events)

    def heads(self) -> list[ContactUpsert]:
        """The next input of each subject; empty when nothing is left to send."""
        return [inputs[0] for inputs in self._left.values()]

    def deliver(self, upsert: ContactUpsert, record_id: str | None = None) -> None:
        """HubSpot has confirmed the input, or nothing was left to send; `record_id` is the contact's."""
        place = None if record_id is None else Place(record_id, upsert.key_property)
        self.conclude(upsert, _DELIVERED if place is None else Delivered(place=place))
        for said in upsert.carried:
            if said.then:
                then = tuple(move.follow_up(upsert.catalog) for move in said.then)
                self._outcomes[said.event.id] = Delivered(then=then, place=place)

    def conclude(self, upsert: ContactUpsert, outcome: Outcome) -> None:
        """Give the input's events their outcome; those behind it follow only if it is out of the way."""
        for event in upsert.events:
            self._outcomes[event.id] = outcome
        if isinstance(outcome, Delivered | Rejected):
            self.replace(upsert)
        else:
            self.hand_back([upsert])

    def replace(self, upsert: ContactUpsert, *inputs: ContactUpsert) -> None:
        """Send these inputs in its place, in order."""
        left = [*inputs, *self._left[upsert.subject][1:]]
        if left:
            self._left[upsert.subject] = left
        else:
            del self._left[upsert.subject]

    def note_outcome(self, event: Event, outcome: Outcome) -> None:
        """Of an event that is in no upsert."""
        self._outcomes[event.id] = outcome

    def hand_back(self, upserts: Iterable[ContactUpsert]) -> None:
        """Send nothing more of their subjects; what has no outcome yet goes back as it was."""
        for upsert in upserts:
            self._left.pop(upsert.subject, None)

    def is_next(self, upsert: ContactUpsert) -> bool:
        """Whether it is what its subject sends next: something else may have taken its place meanwhile."""
        left = self._left.get(upsert.subject)
        return left is not None and left[0] is upsert

    def next_of(self, upserts: Iterable[ContactUpsert]) -> list[ContactUpsert]:
        """What the subjects of these send next."""
        return [self._left[upsert.subject][0] for upsert in upserts if upsert.subject in self._left]

    def sets_any_of(self, names: AbstractSet[str]) -> bool:
        return bool(names) and any(
            names & upsert.properties.keys() for inputs in self._left.values() for upsert in inputs
        )

    def set_apart(self, lack: Lack) -> None:
        """Events that set what the account lacks wait, with those behind them; what precedes them is still sent."""
        for subject, inputs in list(self._left.items()):
            left: list[ContactUpsert] = []
            waiting = _Waiting(lack)
            for upsert in inputs:
                left += waiting.part(upsert)
            self._outcomes |= waiting.outcomes
            self._left[subject] = left
            if not left:
                del self._left[subject]

    def suspect(self, upsert: ContactUpsert, refusal: RefusedWhole) -> None:
        """The input was refused alone, in a way in which all may be; it is judged once others have been tried."""
        self.suspects.append((upsert, refusal))

    def unsuspected(self) -> list[ContactUpsert]:
        """What the subjects of which no input is suspected send next, unless a contact is to be looked at first."""
        suspected = {upsert.subject for upsert, _ in self.suspects}
        return [head for head in self.heads() if head.subject not in suspected and head.contested is None]

    def take_suspects(self) -> list[tuple[ContactUpsert, RefusedWhole]]:
        taken, self.suspects = self.suspects, []
        return taken


class _Waiting:
    """Parts one subject's inputs, in order, at the first event that has to wait."""

    def __init__(self, lack: Lack) -> None:
        self._lack = lack
        self._first: Waiting | None = None
        self.outcomes: dict[int, Waiting] = {}

    def part(self, upsert: ContactUpsert) -> list[ContactUpsert]:
        """What is still sent of the input, if anything."""
        carried = upsert.carried
        sent = [contribution for contribution in carried if not self._waits(contribution)]
        if not sent:
            return []
        if len(sent) < len(carried):
            upsert = upsert.beginning(len(sent))
        return [upsert.considering_none_of(self._lack.names)]

    def _waits(self, contribution: Contribution) -> bool:
        lack = self._lack.of(contribution.sets)
        if lack.names:
            outcome = Waiting(lack.key, lack.reason)
        elif self._first is not None:
            outcome = replace(self._first, is_behind=True)
        else:
            return False
        self._first = self._first or outcome
        self.outcomes[contribution.event.id] = outcome
        return True
