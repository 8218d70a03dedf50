"""Any object becomes text that every database stores: ASCII JSON, or an honest account of why it is none."""

from __future__ import annotations

import json
from reprlib import Repr

# HubSpot's values are short; what is longer is a mistake that a person should see.
PAYLOAD_BYTES_MAX = 64 * 1024
# Beyond this only the beginning is kept, so that a mistake cannot fill the database.
STORED_BYTES_MAX = 1024 * 1024
_BEGINNING_CHARS = 16 * 1024
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def encode_payload(payload: object) -> tuple[str, str | None]:
    """Return `payload` as ASCII JSON, and why it can never be delivered, if so."""
    try:
        text = _encode(payload)
    except (TypeError, ValueError, RecursionError) as error:
        return _beginning_of("unreadable", _Description().repr(payload)), f"payload is no JSON: {error}"
    if not isinstance(payload, dict):
        return _beginning_of(
            "unreadable", text
        ), f"payload is a {type(payload).__name__}; pass an object with named fields"
    if len(text) > STORED_BYTES_MAX:
        return _beginning_of("truncated", text), _too_long(text)
    return text, _too_long(text) if len(text) > PAYLOAD_BYTES_MAX else None


def storable(text: str) -> str:
    """Return `text` without what PostgreSQL refuses: NUL and lone surrogates appear as escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class _Description(Repr):
    """Of any object, also of one whose values cannot be made text; cut where it is long or deep."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 20
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 1000
        self.maxstring = self.maxother = _BEGINNING_CHARS

    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:
            # Python makes no text of more than 4,300 digits.
            return f"<an integer of {x.bit_length()} bits>"


def _beginning_of(key: str, text: str) -> str:
    account: dict[str, str | int] = {key: text[:_BEGINNING_CHARS]}
    if len(text) > _BEGINNING_CHARS:
        account["length"] = len(text)
    return json.dumps(account)


def _too_long(text: str) -> str:
    return f"payload has {len(text)} bytes; {PAYLOAD_BYTES_MAX} is the most: send references, not documents"
