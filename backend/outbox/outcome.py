"""What a delivery came to, one outcome per event. Split by what happens to the event next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination confirmed it; or, in a dry run, would have been asked."""

    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """It went wrong in a way that a repeat may mend: costs an attempt, and the event backs off."""

    error: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """No repeat can mend it: the event has failed."""

    error: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """Nothing was wrong with the event: it goes back to pending uncharged, for WAIT_MAX at most."""

    reason: str | None = None
    wait: timedelta = timedelta(0)


Outcome = Delivered | Retry | Rejected | Postponed
