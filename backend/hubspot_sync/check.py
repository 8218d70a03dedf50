"""What `doctor` finds: pass, warn or fail, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Finding(StrEnum):
    PASS = "pass"  # noqa: S105  # No password.
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """`remedy` is empty exactly if the finding is `pass`."""

    name: str
    finding: Finding
    detail: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {"name": self.name, "finding": self.finding.value, "detail": self.detail, "remedy": self.remedy}


def passed(name: str, detail: str) -> Check:
    return Check(name, Finding.PASS, detail)


def warned(name: str, detail: str, remedy: str) -> Check:
    return Check(name, Finding.WARN, detail, remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    return Check(name, Finding.FAIL, detail, remedy)


def listed(words: list[str] | tuple[str, ...]) -> str:
    return ", ".join(words)
