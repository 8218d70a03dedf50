"""Tells an input that HubSpot cannot digest from a day on which HubSpot answers nobody.

A request without an answer may be either's doing. Its inputs travel again, in requests of half the size, until each is
alone: then those that are answered were not to blame. One that stays without an answer is blamed only while the others'
requests are answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from hubspot_sync.translation import INPUTS_MAX, ContactUpsert

# Played with requests of which 5 % to 50 % go wrong by chance, five failed 2 of 100,000 events that nothing ailed, and
# ten failed none of 7,500,000. More would keep a guilty one waiting for longer where there is little to do.
ANSWERS_TO_BLAME = 10
# So often in a row an input may come again alone at once; what stays without an answer must leave others the probes.
_TRIES_AT_ONCE = 2
_WAIT_FIRST = timedelta(seconds=2)
_WAIT_MAX = timedelta(seconds=60)
# How an outage is told that may be one contact's.
ONE_CONTACT = "one contact's requests get no answer"
# More subjects than this in trouble at once are no matter of single inputs.
_SUBJECTS_MAX = 10_000


class HasSubject(Protocol):
    """What a request is about: a contact's upsert, or the event that erases it."""

    @property
    def subject(self) -> str: ...


@dataclass(slots=True)
class _Trouble:
    """Of a subject whose last request got no answer; `answers_before` had come when it was last tried alone."""

    inputs_max: int
    tries_alone: int = 0
    answers_before: int = 0


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What a missing answer says of a request's inputs.

    `is_blamed`: the input's own doing, for which it is charged. `is_singular`: others were answered since its last try,
    so it says nothing of HubSpot. `wait` leaves the next requests to others. `only_subject`: nothing but its requests
    went without an answer since the last one that came, so it says little of HubSpot.
    """

    is_blamed: bool = False
    is_singular: bool = False
    wait: timedelta = timedelta(0)
    only_subject: str | None = None


class PoisonDetector:
    """What one process knows of it. Another process, or the next, finds out anew."""

    def __init__(self) -> None:
        self._troubles: dict[str, _Trouble] = {}
        self._answers = 0
        self._answers_before_outage = 0
        # Whose requests got no answer since the last one that came; two say as much as a hundred.
        self._unanswered: set[str] = set()

    def by_size(self, upserts: Iterable[ContactUpsert]) -> list[tuple[int, list[ContactUpsert]]]:
        """The upserts by the number of inputs that may share a request, those in no trouble first."""
        if not self._troubles:
            return [(INPUTS_MAX, [*upserts])]
        sizes: dict[int, list[ContactUpsert]] = {}
        for upsert in upserts:
            trouble = self._troubles.get(upsert.subject)
            sizes.setdefault(INPUTS_MAX if trouble is None else trouble.inputs_max, []).append(upsert)
        return sorted(sizes.items(), reverse=True)

    def note_answer(self, upserts: Iterable[HasSubject]) -> None:
        """HubSpot digested the request, whatever it said of the inputs."""
        troubles = [self._troubles.pop(upsert.subject, None) for upsert in upserts] if self._troubles else []
        self._answers += 1
        self._unanswered.clear()
        if any(trouble is not None and trouble.tries_alone for trouble in troubles):
            # It had got no answer alone, and nothing ailed it.
            self._note_outage()

    def note_no_answer(self, upserts: Sequence[HasSubject]) -> Suspicion:
        if any(upsert.subject not in self._troubles for upsert in upserts):
            self._note_outage()
        for upsert in upserts:
            trouble = self._troubles.pop(upsert.subject, None) or _Trouble(INPUTS_MAX)
            trouble.inputs_max = max(1, len(upserts) // 2)
            self._troubles[upsert.subject] = trouble
        while len(self._troubles) > _SUBJECTS_MAX:
            del self._troubles[next(iter(self._troubles))]
        if len(self._unanswered) < 2:
            self._unanswered.update(upsert.subject for upsert in upserts)
        return self._suspect(upserts[0].subject) if len(upserts) == 1 else Suspicion()

    def _suspect(self, subject: str) -> Suspicion:
        trouble = self._troubles[subject]
        is_first = trouble.tries_alone == 0
        since = max(trouble.answers_before, self._answers_before_outage)
        is_singular = not is_first and self._answers > trouble.answers_before
        is_blamed = not is_first and self._answers - since >= ANSWERS_TO_BLAME
        trouble.tries_alone += 1
        trouble.answers_before = self._answers
        only_subject = subject if self._unanswered == {subject} else None
        return Suspicion(is_blamed, is_singular, _wait(trouble.tries_alone), only_subject)

    def _note_outage(self) -> None:
        self._answers_before_outage = self._answers


def outage_of_one(contact: str, reason: str) -> str:
    """What is known of HubSpot where only this contact's requests are sent, and none is answered."""
    return (
        f"{ONE_CONTACT}, those of {contact}, and nothing else is being sent, "
        f"so it is not known whether HubSpot answers others: {reason}"
    )


def _wait(tries_alone: int) -> timedelta:
    if tries_alone <= _TRIES_AT_ONCE:
        return timedelta(0)
    doublings = min(tries_alone - _TRIES_AT_ONCE - 1, 10)
    wait: timedelta = min(_WAIT_FIRST * 2**doublings, _WAIT_MAX)
    return wait
