"""What `doctor` finds: pass, warn or fail, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hubspot_sync.entries import Entry


class Finding(StrEnum):
    PASS = "pass"  # noqa: S105  # No password.
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """`remedy` is empty exactly if the finding is `pass`; `entry` says more than it has room for."""

    name: str
    finding: Finding
    detail: str
    remedy: str = ""
    entry: Entry | None = None

    def as_json(self) -> dict[str, str | None]:
        told = {"name": self.name, "finding": self.finding.value, "detail": self.detail, "remedy": self.remedy}
        return told | {"entry": self.entry and self.entry.place}


def passed(name: str, detail: str) -> Check:
    return Check(name, Finding.PASS, detail)


def warned(name: str, detail: str, remedy: str, entry: Entry | None = None) -> Check:
    return Check(name, Finding.WARN, detail, remedy, entry)


def failed(name: str, detail: str, remedy: str, entry: Entry | None = None) -> Check:
    return Check(name, Finding.FAIL, detail, remedy, entry)


def listed(words: list[str] | tuple[str, ...]) -> str:
    return ", ".join(words)
