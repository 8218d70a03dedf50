"""The name by which a subject that was forgotten is known: a keyed hash, which only who has the key can match."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from sqlalchemy_outbox.payload import storable

# A shorter key can be guessed, and with it whose hash a name is.
KEY_CHARS_MIN = 32
_PREFIX = "forgotten:"


class KeyMissing(Exception):
    """Nobody can be forgotten here: the key by which forgotten subjects are named is not set."""

    def __init__(self) -> None:
        super().__init__(KeyMissing.__doc__)


@dataclass(slots=True)
class Names:
    """An outbox's. Whoever starts a process sets the key once; without it no subject has a name."""

    _key: bytes | None = field(default=None, repr=False)

    @property
    def has_key(self) -> bool:
        return self._key is not None

    def use_key(self, key: str) -> None:
        """Name subjects by this key, or by none if it is empty."""
        if 0 < len(key) < KEY_CHARS_MIN:
            raise ValueError(f"the key has {len(key)} characters; {KEY_CHARS_MIN} are the least")
        self._key = key.encode() or None

    def of(self, subject: str) -> str | None:
        """The subject's name; None where there is no key."""
        return (
            None if self._key is None else _PREFIX + hmac.digest(self._key, storable(subject).encode(), "sha256").hex()
        )

    def of_key(self) -> str | None:
        """Which key it is, and nothing of it."""
        # Longer than any subject's.
        return None if self._key is None else hmac.digest(self._key, b"\0" * 256, "sha256").hex()[:16]


def is_name(subject: str) -> bool:
    """Whether this is the name of a subject that was forgotten."""
    return subject.startswith(_PREFIX)
