"""One thing to be said on top of the page."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from hubspot_sync.entries import Entry


class Level(StrEnum):
    GOOD = "good"
    INFO = "info"
    WARNING = "warning"
    BAD = "bad"


class Act(StrEnum):
    """What a person can do about it here."""

    RELEASE = "release"
    TRY_NOW = "try now"
    PROVISION = "provision"
    DOCTOR = "doctor"


@dataclass(frozen=True, slots=True)
class Notice:
    """`remedy` says what a person should do, and `words` why, in HubSpot's words or a person's.

    `until` is when it ends, or is looked at next, as `until_words` say. `costs` whether what waits is told beside it.
    `entry` has more.
    """

    level: Level
    title: str
    words: str = ""
    remedy: str = ""
    acts: tuple[Act, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    until_words: str = ""
    costs: bool = False
    entry: Entry | None = None
