"""Outcomes become the rows that settle a batch. Pure: the one place that decides who is charged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple, assert_never

from sqlalchemy_outbox.model import ATTEMPTS_MAX, REFUSED, WAIT, Event, State
from sqlalchemy_outbox.outcome import Delivered, FollowUp, Outcome, Place, Postponed, Rejected, Retry, Waiting, behind
from sqlalchemy_outbox.payload import storable
from sqlalchemy_outbox.reason import reason_of
from sqlalchemy_outbox.settling.backoff import WAIT_MAX, backoff

_ERROR_CHARS_MAX = 2000
_NO_TIME = timedelta(0)
_NO_OUTCOME = Retry("the destination gave no outcome for this event")


class Settlement(NamedTuple):
    """How one event leaves its claim. `waits_for` is the key of what it is set apart for.

    `place` is where its subject was delivered to; of a subject's events only the last one delivered has it.
    """

    id: int
    state: State
    attempt_count: int
    last_error: str | None
    dry_run: bool = False
    wait_seconds: float = 0.0
    failure_reason: str | None = None
    is_in_doubt: bool = False
    then: tuple[FollowUp, ...] = ()
    waits_for: str | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a claim: the ids of the events that left it, and when that was by the database's clock."""

    ids: frozenset[int]
    at: datetime


NOTHING_ENDED = Ended(frozenset(), datetime.min.replace(tzinfo=UTC))


class Settled(NamedTuple):
    """An event that has left its claim."""

    event: Event
    settlement: Settlement
    at: datetime

    @property
    def age(self) -> timedelta:
        """How long ago it was enqueued when it left."""
        return max(_NO_TIME, self.at - self.event.created_at)

    @property
    def is_refusal(self) -> bool:
        return self.settlement.failure_reason == REFUSED

    @property
    def is_charged(self) -> bool:
        return self.settlement.attempt_count > self.event.attempt_count


def settled(events: Sequence[Event], settlements: Sequence[Settlement], ended: Ended) -> list[Settled]:
    """Those of the events that were still held."""
    pairs = zip(events, settlements, strict=True)
    return [Settled(event, it, ended.at) for event, it in pairs if event.id in ended.ids]


def settle(events: Sequence[Event], outcomes: Mapping[int, Outcome], random: Random) -> list[Settlement]:
    """Return a settlement for every event, in order.

    Of a subject's events only the first that went wrong is charged: those behind it were merged with it or waited for
    it, and go back as they were. An event that got no outcome is treated as one that went wrong.
    """
    settlements: list[Settlement] = []
    charged: set[str] = set()
    placed: dict[str, int] = {}
    for event in events:
        outcome = outcomes.get(event.id, _NO_OUTCOME)
        if event.subject in charged and isinstance(outcome, Retry | Rejected):
            outcome = Postponed(is_in_doubt=isinstance(outcome, Retry) and outcome.is_in_doubt)
        if isinstance(outcome, Retry):
            charged.add(event.subject)
        settlement = _settle_one(event, outcome, random)
        if settlement.place is not None:
            if (earlier := placed.get(event.subject)) is not None:
                settlements[earlier] = settlements[earlier]._replace(place=None)
            placed[event.subject] = len(settlements)
        settlements.append(settlement)
    return settlements


def charge_lost_leases(events: Sequence[Event], random: Random) -> list[Settlement]:
    """Settle events whose worker lost its lease, given in order, as if each had gone wrong. All are in doubt."""
    lost = Retry("the worker that had claimed it stopped answering", is_in_doubt=True)
    return settle(events, {event.id: lost for event in events}, random)


def _settle_one(event: Event, outcome: Outcome, random: Random) -> Settlement:
    match outcome:
        case Delivered(dry_run, then, place):
            return Settlement(event.id, State.DELIVERED, event.attempt_count, None, dry_run, then=then, place=place)
        case Rejected(error):
            return _fail(event, ATTEMPTS_MAX, _bounded(error))
        case Retry(error, is_in_doubt):
            return _charge(event, error, random)._replace(is_in_doubt=is_in_doubt)
        case Postponed(reason, wait, is_in_doubt):
            return _hand_back(event, reason, wait)._replace(is_in_doubt=is_in_doubt)
        case Waiting():
            return _set_apart(event, outcome)
        case _:
            assert_never(outcome)


def _charge(event: Event, error: str, random: Random) -> Settlement:
    attempts, error = event.attempt_count + 1, _bounded(error)
    if attempts >= ATTEMPTS_MAX:
        return _fail(event, attempts, error)
    wait_seconds = _wait_seconds(backoff(attempts, random))
    return Settlement(event.id, State.PENDING, attempts, error, wait_seconds=wait_seconds)


def _fail(event: Event, attempts: int, error: str) -> Settlement:
    return Settlement(event.id, State.FAILED, attempts, error, failure_reason=reason_of(error))


def _hand_back(event: Event, reason: str | None, wait: timedelta) -> Settlement:
    return Settlement(
        event.id,
        State.PENDING,
        event.attempt_count,
        event.last_error if reason is None else _bounded(reason),
        wait_seconds=_wait_seconds(wait),
    )


def _wait_seconds(wait: timedelta) -> float:
    return min(wait, WAIT_MAX).total_seconds()


def _set_apart(event: Event, waiting: Waiting) -> Settlement:
    words = behind(waiting.reason) if waiting.is_behind else waiting.reason
    settlement = _hand_back(event, words, timedelta(0))
    return settlement._replace(
        wait_seconds=WAIT.total_seconds(), is_in_doubt=waiting.is_in_doubt, waits_for=waiting.key
    )


def _bounded(error: str) -> str:
    return storable(error[:_ERROR_CHARS_MAX])
