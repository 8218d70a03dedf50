"""What is kept of a request: HubSpot's answer in the words of the outbox, redacted as all of HubSpot's words are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import assert_never

from hubspot_sync.answer import Answer
from hubspot_sync.classification import (
    REFUSAL,
    Contested,
    Finding,
    Held,
    RefusedWhole,
    Settled,
    Throttled,
    Unavailable,
    Verdict,
    Written,
)
from hubspot_sync.translation import ContactUpsert
from sqlalchemy_outbox.outcome import Postponed, Rejected, Retry
from sqlalchemy_outbox.settling.deliveries import Delivery

UPSERT = "contacts/batch/upsert"
# What a request came to for an event begins with one of these, where HubSpot decided.
DELIVERED, REFUSED = "delivered", "refused"
# The answer settles nothing of it: it goes again in a smaller request.
UNSETTLED = "not settled by the answer"
# Whether that holds everything or sets some events apart is seen after the answer.
LACKING = "properties are missing or read-only"


def record_upsert(
    upserts: Sequence[ContactUpsert], began_at: float, verdict: Verdict, answer: Answer | None
) -> Delivery:
    """An upsert request that has just ended; `answer` is None when none came."""
    outcomes = {
        event.id: _outcome_for(upsert, verdict, upserts, answer) for upsert in upserts for event in upsert.events
    }
    return Delivery(
        UPSERT,
        began_at,
        timedelta(seconds=time.monotonic() - began_at),
        _outcome(verdict, upserts, answer),
        outcomes,
        status=None if answer is None else answer.status,
        category=None if answer is None else answer.category,
        correlation_id=None if answer is None else answer.correlation_id or None,
        error=_error(verdict, answer),
    )


def _outcome(verdict: Verdict, upserts: Sequence[ContactUpsert], answer: Answer | None) -> str:
    match verdict:
        case Settled(_, shut) if shut is not None:
            return _outcome(shut, upserts, answer)
        case Settled(findings, None) if not findings:
            return UNSETTLED
        case Settled(findings):
            written = sum(isinstance(finding, Written) for finding in findings.values())
            return DELIVERED if written == len(upserts) else "partly delivered" if written else REFUSED
        case RefusedWhole():
            return REFUSED
        case Throttled():
            return "throttled"
        case Held(_, is_of_properties):
            return LACKING if is_of_properties else "held"
        case Unavailable():
            return "no answer" if answer is None else "no usable answer"
        case _:
            assert_never(verdict)


def _outcome_for(
    upsert: ContactUpsert, verdict: Verdict, upserts: Sequence[ContactUpsert], answer: Answer | None
) -> str:
    match verdict:
        case Settled(findings):
            finding = findings.get(upsert.trace_id)
            return UNSETTLED if finding is None else _words(finding)
        case RefusedWhole(finding) if len(upserts) == 1:
            return _words(finding)
        case RefusedWhole():
            return f"refused in a request of {len(upserts)}"
        case _:
            return _outcome(verdict, upserts, answer)


def _words(finding: Finding) -> str:
    match finding:
        case Written(record_id):
            return f"{DELIVERED} to contact {record_id}"
        case Contested(_, _, reason):
            return f"conflict: {reason.removeprefix(REFUSAL)}"
        case Rejected(error):
            return f"{REFUSED}: {error.removeprefix(REFUSAL)}"
        case Retry(error):
            return f"to be tried again: {error.removeprefix(REFUSAL)}"
        case Postponed(reason):
            return f"postponed: {reason}" if reason else "postponed"
        case _:
            assert_never(finding)


def _error(verdict: Verdict, answer: Answer | None) -> str | None:
    if isinstance(verdict, Unavailable):
        return verdict.reason
    if answer is None:
        return None
    if not answer.is_success:
        return answer.summary()
    if answer.is_too_long:
        return "the answer is too long to be read"
    batch = answer.batch()
    worded = (row.error for row in batch.errors if row.error.raw_message.strip()) if batch else iter(())
    return next((error.message for error in worded), "") or None
