"""How an application says what its subjects are now, so that `resync` can send them anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class PresentEvent:
    """One event that says how a subject stands now, as the application would track it."""

    event_type: str
    payload: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PresentState:
    """What an application hands over, so that its subjects can be sent anew.

    `events_of` locks the subjects' rows as every write that tracks an event does, and gives each subject's events, in
    order; a subject that does not exist is left out. `subjects_after` names the next ones in the order of their names,
    and `count_after` says how many there are; both begin with the first one when the cursor is None, and raise
    ValueError when it can be no subject's name.
    """

    events_of: Callable[[Session, Sequence[str]], Mapping[str, Sequence[PresentEvent]]]
    subjects_after: Callable[[Session, str | None, int], Sequence[str]]
    count_after: Callable[[Session, str | None], int]
