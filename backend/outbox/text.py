"""Text from outside, of destinations, operators, settings and exceptions, in a column: made storable as it is bound."""

from __future__ import annotations

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from outbox.payload import storable


class StorableText(TypeDecorator[str]):
    """Text without what PostgreSQL refuses; see `storable`. What rows hold is made so by `rows.as_parameter`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)
