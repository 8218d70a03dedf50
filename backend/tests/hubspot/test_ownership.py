"""Two subjects of one address are told of, and fill no log."""

from __future__ import annotations

import pytest
from hubspot_sync.ownership import NAMED_MAX, Ownership


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_contact_that_changes_hands_by_every_delivery_is_a_few_lines_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    ownership = Ownership(clock)
    for number in range(1001):
        ownership.note("4711", f"driver-{number % 2}")
    assert len(caplog.messages) == NAMED_MAX
    clock.seconds += 61
    ownership.note("4711", "driver-1")
    assert len(caplog.messages) == NAMED_MAX + 2
    assert caplog.messages[-2] == f"{1000 - NAMED_MAX} more times a contact became another subject's."
    assert caplog.messages[-1].startswith("Contact 4711 was driver-0's and is now driver-1's")
