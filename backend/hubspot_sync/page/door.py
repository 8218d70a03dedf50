"""The operator's token where somebody shows it: one minimum, one lock-out and one log for the page and for metrics."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable

from pydantic import SecretStr

from hubspot_sync.page.lockout import Lockout

log = logging.getLogger(__name__)

TOKEN_LENGTH_MIN = 16


class Door:
    """One process's. `clock` gives seconds that only grow.

    `objection` says in words why it stays closed to everybody; None when the token is hard to guess.
    """

    def __init__(self, token: SecretStr, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._clock = clock
        self._lockout = Lockout()
        self.objection = _objection_to(token.get_secret_value())

    @property
    def token(self) -> str:
        return self._token.get_secret_value()

    def seconds_locked(self, address: str) -> int:
        """For how long nothing that comes from this address is looked at; 0 when it may try."""
        return math.ceil(self._lockout.wait(address, self._clock()).total_seconds())

    def admits(self, token: str, address: str) -> bool:
        """Whether this is the token; how long it takes says nothing of how near it was. A wrong one is counted.

        Ask `seconds_locked` first, and await nothing in between: guesses sent at once are counted one by one.
        """
        if self.objection is None and hmac.compare_digest(_sum(token), _sum(self.token)):
            self._lockout.note_token(address, self._clock())
            return True
        self._lockout.note_failure(address, self._clock())
        log.warning("A wrong operator token came from %s.", address or "an unknown address")
        return False

    def forgive(self, address: str) -> None:
        """Forget the wrong tokens of a person who has found the right one."""
        self._lockout.note_success(address)


def _sum(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def _objection_to(token: str) -> str | None:
    if not token:
        return "OPERATOR_TOKEN is empty."
    if len(token) < TOKEN_LENGTH_MIN:
        return f"OPERATOR_TOKEN has fewer than {TOKEN_LENGTH_MIN} characters, which is too easy to guess."
    return None
