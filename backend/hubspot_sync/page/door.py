"""The tokens where somebody shows one: one minimum, one lock-out and one log for the page and for metrics."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable

from pydantic import SecretStr

from hubspot_sync.page.lockout import Lockout
from hubspot_sync.page.roles import Role

log = logging.getLogger(__name__)

TOKEN_LENGTH_MIN = 16
NO_TOKEN = SecretStr("")


class Door:
    """One process's. `clock` gives seconds that only grow.

    `objection` says in words why it stays closed to everybody; None when the token is hard to guess. A `reader_token`
    that is empty, or no better than that, admits nobody.
    """

    def __init__(
        self,
        token: SecretStr,
        reader_token: SecretStr = NO_TOKEN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = token
        self._reader_token = reader_token
        self._clock = clock
        self._lockout = Lockout()
        self.objection = _objection_to("OPERATOR_TOKEN", token.get_secret_value())
        if (objection := self._objection_to_readers()) is not None:
            log.warning("Readers stay out: %s", objection)
            self._reader_token = NO_TOKEN

    @property
    def token(self) -> str:
        return self._token.get_secret_value()

    @property
    def reader_token(self) -> str:
        """Empty where there are no readers."""
        return self._reader_token.get_secret_value()

    def seconds_locked(self, address: str) -> int:
        """For how long nothing that comes from this address is looked at; 0 when it may try."""
        return math.ceil(self._lockout.wait(address, self._clock()).total_seconds())

    def admits(self, token: str, address: str) -> Role | None:
        """Whose token this is; how long it takes says nothing of how near it was. A wrong one is counted.

        Ask `seconds_locked` first, and await nothing in between: guesses sent at once are counted one by one.
        """
        is_operator = hmac.compare_digest(_sum(token), _sum(self.token))
        is_reader = hmac.compare_digest(_sum(token), _sum(self.reader_token)) and bool(self.reader_token)
        if self.objection is None and (is_operator or is_reader):
            self._lockout.note_token(address, self._clock())
            return Role.OPERATOR if is_operator else Role.READER
        self._lockout.note_failure(address, self._clock())
        log.warning("A wrong operator token came from %s.", address or "an unknown address")
        return None

    def forgive(self, address: str) -> None:
        """Forget the wrong tokens of a person who has found the right one."""
        self._lockout.note_success(address)

    def _objection_to_readers(self) -> str | None:
        if not self.reader_token:
            return None
        if self.reader_token == self.token:
            return "READER_TOKEN is that of the operator."
        return _objection_to("READER_TOKEN", self.reader_token)


def _sum(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def _objection_to(name: str, token: str) -> str | None:
    if not token:
        return f"{name} is empty."
    if len(token) < TOKEN_LENGTH_MIN:
        return f"{name} has fewer than {TOKEN_LENGTH_MIN} characters, which is too easy to guess."
    return None
