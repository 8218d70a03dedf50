"""A subject is forgotten in the caller's transaction: a mark by which its events are refused, and an event that erases.

    forget ─▶ buffer of the database transaction ─▶ the mark, then the erasure's event, at its commit ─▶ COMMIT

Unlike an event, this may not be lost: where it cannot be written, the transaction fails.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from uuid import UUID, uuid4

from sqlalchemy_outbox.enqueueing import insertion
from sqlalchemy_outbox.enqueueing.commits import Entry
from sqlalchemy_outbox.enqueueing.enqueue import SUBJECT_CHARS_MAX, AnySession, append
from sqlalchemy_outbox.enqueueing.marks import Mark
from sqlalchemy_outbox.model import ERASURE, Outbox
from sqlalchemy_outbox.names import KeyMissing
from sqlalchemy_outbox.payload import storable
from sqlalchemy_outbox.tracing import current_traceparent

__all__ = ["ERASURE", "ErasureWay", "KeyMissing", "forget"]

_REASON_CHARS_MAX = 2000


class ErasureWay(StrEnum):
    """How the destination forgets."""

    ERASE = "erase"
    """For good, so that it takes the person's address never again."""
    ARCHIVE = "archive"
    """As a person of the destination would delete it, who can take that back for a while."""


def forget(
    session: AnySession, outbox: Outbox, subject: str, payload: Mapping[str, object], *, reason: str, way: ErasureWay
) -> UUID:
    """Forget the subject if and only if the caller's transaction commits; returns the id of the event that erases it.

    Takes what `enqueue` takes, and awaits nothing. From the commit on, the subject's events are refused, those that
    wait included. `payload` is the event's. Raises KeyMissing without a key, ValueError for what is no subject or no
    reason, and TypeError where the transaction could not share its fate.
    """
    name, key_name = outbox.names.of(subject), outbox.names.of_key()
    if name is None or key_name is None:
        raise KeyMissing
    if not 0 < len(subject) <= SUBJECT_CHARS_MAX:
        raise ValueError(f"a subject has 1 to {SUBJECT_CHARS_MAX} characters")
    if not (reason := reason.strip()):
        raise ValueError("say why: the reason is kept for good, so let it name nobody")
    event_id = uuid4()
    row = insertion.Row(
        event_id=str(event_id),
        event_type=ERASURE,
        subject=storable(subject),
        payload=json.dumps(payload),
        error=None,
        failure_reason=None,
        traceparent=current_traceparent(),
    )
    mark = Mark(name, key_name, way.value, reason[:_REASON_CHARS_MAX])
    append(session, Entry(outbox, row, mark))
    return event_id
