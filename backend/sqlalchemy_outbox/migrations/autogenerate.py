"""The outbox's tables in what `alembic revision --autogenerate` writes."""

from __future__ import annotations

from typing import Literal

from sqlalchemy_outbox.clock import Instant
from sqlalchemy_outbox.model import EventId
from sqlalchemy_outbox.text import AnyText

# SQLAlchemy's own types, so that a migration imports nothing of ours and means the same after our types have changed.
_WRITTEN: dict[type, str] = {
    AnyText: "sa.Text()",
    EventId: "sa.Uuid().with_variant(sa.Text(), 'sqlite')",
    Instant: "sa.DateTime(timezone=True).with_variant(sa.Text(), 'sqlite')",
}


def render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """For `context.configure(render_item=…)` in your env.py: the outbox's types as SQLAlchemy's own."""
    return _WRITTEN.get(type(item), False) if kind == "type" else False
