"""What who is signed in may do: a reader looks, an operator acts as well."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    OPERATOR = "operator"
    READER = "reader"
