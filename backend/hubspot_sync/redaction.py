"""What a person or a key is known by is taken out of every text that came from HubSpot or was meant for it.

HubSpot's messages quote what they refuse. All of their words that are kept or shown pass `Redaction.shown`, so logs,
`last_error`, the gate's reason, the command line and pages hold only what remains.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache

from sqlalchemy_outbox.payload import storable

ADDRESS, PHONE, TOKEN, PERSONAL = "[address]", "[phone]", "[token]", "[personal]"

_OF_AN_ADDRESS = r"[^\s@\"'<>()\[\]{},;]"
# Tried only where a word begins, and without giving characters back, so that a long text costs no more than its length.
_ADDRESSES = re.compile(rf"(?<!{_OF_AN_ADDRESS}){_OF_AN_ADDRESS}++@{_OF_AN_ADDRESS}+")
# Digits without a plus sign may be HubSpot's record ids, which a person needs.
_PHONES = re.compile(r"(?<![\w+])\+\d[\d ()./-]{5,}\d")
_TOKENS = re.compile(r"\bpat-[a-z]{2,4}\d-[\w-]+|(?<=Bearer )\S+")
# Of a token, so many characters in a row are a piece of it: HubSpot's refusals quote a beginning.
_PIECE_LENGTH = 6
# A shorter value is found by chance in what has nothing to do with it.
_VALUE_LENGTH_MIN = 4
# What is behind so much of a text is not read.
_CHARS_READ_MAX = 8 * 1024
_OF_A_PHONE = "0123456789 ()./-+"


class Redaction:
    """Takes out addresses, phone numbers, tokens, any piece of this `token`, and these `values` however they look."""

    def __init__(self, values: Iterable[str] = (), *, token: str = "") -> None:
        self._token = token
        self._values = sorted((value for value in values if len(value) >= _VALUE_LENGTH_MIN), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        if self._token:
            text = _without_pieces(text.replace(self._token, TOKEN), self._token)
        # A search for a few letters costs a hundredth of looking for what may be around them.
        if "pat-" in text or "Bearer " in text:
            text = _TOKENS.sub(TOKEN, text)
        if "@" in text:
            text = _ADDRESSES.sub(ADDRESS, text)
        if "+" in text:
            text = _PHONES.sub(PHONE, text)
        # Most values are told to be absent by their first character, which is looked up and not searched for.
        characters = set(text)
        for value in self._values:
            if value[0] in characters and value in text:
                text = text.replace(value, PERSONAL)
                characters.update(PERSONAL)
        return text

    def shown(self, text: str, chars_max: int) -> str:
        """The text as it may be kept and shown: storable, redacted, and of `chars_max` characters at most."""
        return self(storable(self._beginning(text)))[:chars_max]

    def shown_each(self, texts: Sequence[str], chars_max: int) -> list[str]:
        """`shown` of each text. Where there is nothing to take out, one look at all of them together tells it.

        No rule but that for values reaches across the end of a line, and these then look at each text alone.
        """
        together = "\n".join(texts)
        is_whole = len(together) <= _CHARS_READ_MAX and together.count("\n") == len(texts) - 1
        if is_whole and self(storable(together)) == together:
            return [text[:chars_max] for text in texts]
        return [self.shown(text, chars_max) for text in texts]

    def _beginning(self, text: str) -> str:
        """The first part of a long text, cut where it takes nothing apart that is to be recognized.

        No address and no token holds a space. A phone number and a value may: what could be one's first part goes.
        """
        if len(text) <= _CHARS_READ_MAX:
            return text
        first, *rest = text[:_CHARS_READ_MAX].rsplit(None, 1) or [""]
        end = len(first) if rest else 0
        with_spaces = [value for value in self._values if len(value.split(None, 1)) > 1]
        while (start := _start_of_what_is_cut(text, end, with_spaces)) is not None:
            end = start
        return text[:end].rstrip(_OF_A_PHONE)


@lru_cache(maxsize=4)
def _pieces_of(token: str) -> tuple[list[str], re.Pattern[str]]:
    """The pieces, and what matches wherever one begins, without taking it: they overlap."""
    starts = range(len(token) - _PIECE_LENGTH + 1)
    pieces = sorted({token[start : start + _PIECE_LENGTH] for start in starts})
    return pieces, re.compile(f"(?=({'|'.join(map(re.escape, pieces))}))" if pieces else "(?!)")


def _without_pieces(text: str, token: str) -> str:
    pieces, beginnings = _pieces_of(token)
    if not any(piece in text for piece in pieces):
        return text
    kept: list[str] = []
    end = 0
    for piece in beginnings.finditer(text):
        if piece.start() > end or not kept:
            kept += [text[end : piece.start()], TOKEN]
        end = piece.start() + _PIECE_LENGTH
    return "".join([*kept, text[end:]])


redact = Redaction()
"""For a text of which nothing more is known."""


def _start_of_what_is_cut(text: str, end: int, values: Iterable[str]) -> int | None:
    """Where a value begins that a cut at `end` would take apart."""
    for value in values:
        start = text.find(value, max(0, end - len(value) + 1), end + len(value) - 1)
        if 0 <= start < end:
            return start
    return None


def texts_of(payload: str, names: Collection[str]) -> set[str]:
    """The texts that stand under these names in a JSON document; none of what is no JSON."""
    try:
        return set(_texts_under(names, json.loads(payload)))
    except (ValueError, RecursionError):
        return set()


def without_personal(value: object, names: Collection[str]) -> object:
    """The JSON value without what stands under these names, also where it stands again, and redacted otherwise."""
    personal = frozenset(_texts_under(names, value))
    return _without(value, names, personal, Redaction(personal))


def _without(value: object, names: Collection[str], personal: Collection[str], redaction: Redaction) -> object:
    match value:
        case str():
            return PERSONAL if value in personal else redaction(value)
        case dict():
            return {
                key: PERSONAL if key in names else _without(it, names, personal, redaction) for key, it in value.items()
            }
        case list():
            return [_without(part, names, personal, redaction) for part in value]
        case _:
            return value


def _texts_under(names: Collection[str], value: object) -> Iterator[str]:
    match value:
        case dict():
            for key, it in value.items():
                if key in names and isinstance(it, str):
                    yield it
                else:
                    yield from _texts_under(names, it)
        case list():
            for part in value:
                yield from _texts_under(names, part)
