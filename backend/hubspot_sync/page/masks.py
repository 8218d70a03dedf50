"""Subjects as a person recognises them: by an address of which only who knows it sees whose it is."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hubspot_sync.page.context import PageContext
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.operations import EventSummary

_HIDDEN = "…"


def masked_addresses(context: PageContext, events: Sequence[EventSummary]) -> dict[str, str]:
    """By subject, where one of these events has an address that was not taken back by a newer one."""
    payloads = operations.read_payloads(context.engine, context.outbox, events)
    masked: dict[str, str] = {}
    for event in sorted(events, key=lambda event: event.id):
        if (address := masked_address(payloads.get(event.id, ""), context.catalog.email_field)) is not None:
            masked[event.subject] = address
    return masked


def masked_address(payload: str, field: str) -> str | None:
    """`a…a@e…e.com` for ada@example.com; None where the payload has no address."""
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    address = fields.get(field) if isinstance(fields, dict) else None
    if not isinstance(address, str) or address.count("@") != 1:
        return None
    name, _, domain = address.strip().partition("@")
    first, dot, rest = domain.partition(".")
    return f"{_masked(name)}@{_masked(first)}{dot}{rest}" if name and first and rest else None


def _masked(word: str) -> str:
    return f"{word[0]}{_HIDDEN}{word[-1]}" if len(word) > 2 else f"{word[0]}{_HIDDEN}"
