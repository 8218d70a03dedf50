"""What a delivery came to, one outcome per event. Split by what happens to the event next.

An event is in doubt when a request that carried it may have been applied though nothing confirmed it. It stays so until
it is delivered: what an older event of its subject says must not undo it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What a delivery leaves to be done: an event of a type that only the destination knows.

    It has its place in its subject's order like any other.
    """

    event_type: str
    subject: str
    payload: Mapping[str, object] = field(repr=False)


class Place(NamedTuple):
    """The destination's record that a subject's events reached, and by which unique property."""

    record_id: str
    key_property: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination confirmed it; or, in a dry run, would have been asked. `then` is stored with its settle.

    `place` is kept of its subject. Of an erasure, `told` is kept for good: what was erased, and nothing of a person.
    `words`, which name the subject, are taken out of what is told of others.
    """

    dry_run: bool = False
    then: tuple[FollowUp, ...] = ()
    place: Place | None = field(default=None, compare=False)
    told: Mapping[str, object] = field(default_factory=dict, hash=False)
    words: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Retry:
    """It went wrong in a way that a repeat may mend: costs an attempt, and the event backs off."""

    error: str
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """No repeat can mend it: the event has failed."""

    error: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """Nothing was wrong with the event: it goes back to pending uncharged, for WAIT_MAX at most."""

    reason: str | None = None
    wait: timedelta = timedelta(0)
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """It waits, uncharged and set apart, for what `key` names; the destination is asked whether that is there.

    `reason` is the key's, with the remedy. `is_behind`: an earlier event of the subject waits for it, and this one for
    that event.
    """

    key: str
    reason: str
    is_behind: bool = False
    is_in_doubt: bool = False


def behind(reason: str) -> str:
    """What is said of an event that is set apart for an earlier one's reason."""
    return f"waits behind an earlier event of its subject: {reason}"


Outcome = Delivered | Retry | Rejected | Postponed | Waiting
