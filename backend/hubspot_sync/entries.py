"""The entries of docs/operations.md, as the page and `doctor` name them; a test holds each against its heading."""

from __future__ import annotations

from enum import StrEnum


class Entry(StrEnum):
    NOTHING_IS_SENT = "events-are-stored-and-nothing-is-sent"
    LAG = "lag-grows"
    HELD = "deliveries-are-held"
    THROTTLED = "deliveries-are-throttled"
    DAY = "the-days-requests-run-out"
    TYPE_WAITS = "a-type-of-event-waits"
    FAILED = "events-have-failed"
    LEFT_ALONE = "hubspot-must-be-left-alone-for-a-while"
    UNREADABLE = "the-outbox-cannot-be-read"
    DRY_RUN = "from-a-dry-run-to-live-and-drivers-from-before"

    @property
    def place(self) -> str:
        return f"docs/operations.md#{self}"
