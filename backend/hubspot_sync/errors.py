"""What may go wrong with a call to HubSpot, or before it.

HubSpotError
├── NoAnswer           no usable answer: the connection failed or timed out before a status came, or a success was cut
│                      off; whether HubSpot applied the request is unknown
├── Refused            an answer that a call outside delivery cannot use (the account, provisioning)
└── ErasureKeyMissing  nobody can be forgotten
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubspot_sync.answer import Answer


class HubSpotError(Exception):
    """Something went wrong between us and HubSpot."""


class NoAnswer(HubSpotError):
    """HubSpot gave no usable answer; whether it applied the request is unknown."""


class Refused(HubSpotError):
    """HubSpot refused the call."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.summary())
        self.answer = answer


class ErasureKeyMissing(HubSpotError):
    """Nobody can be forgotten: HUBSPOT_ERASURE_KEY is empty. Set it, for all processes the same, and keep it."""

    def __init__(self) -> None:
        super().__init__(ErasureKeyMissing.__doc__)
