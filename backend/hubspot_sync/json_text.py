"""JSON as the standard library reads and writes it, in half the time.

What pydantic's parser (jiter) reads, it reads alike: NaN, integers of any length, the last of equal names. What it
refuses and the standard library may take, such as halves of surrogate pairs, a byte order mark or deep nesting, is left
to that, errors included (both: pydantic-core 2.33 to 2.50; tests/hubspot/test_json_text.py).
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json


def read_json(text: str | bytes) -> Any:
    """What the text says; raises ValueError or RecursionError."""
    try:
        # Values are a person's, and are not kept.
        return from_json(text, cache_strings="keys")
    except ValueError:
        return json.loads(text)


def write_json(value: object) -> bytes:
    """The value, made of dicts, lists, texts and numbers, in UTF-8."""
    try:
        return to_json(value)
    except PydanticSerializationError:
        return json.dumps(value, separators=(",", ":")).encode()
