"""Equal failures are one reason, though each names its own ids and numbers."""

from __future__ import annotations

import re

# Far below what an index takes.
REASON_CHARS_MAX = 300

_WORDS = re.compile(r"[\w-]+")
_DIGIT = re.compile(r"\d")


def reason_of(error: str) -> str:
    """Return `error` with every word that holds a digit as `#`, cut to a length that an index takes."""
    return _WORDS.sub(lambda word: "#" if _DIGIT.search(word[0]) else word[0], error)[:REASON_CHARS_MAX]
