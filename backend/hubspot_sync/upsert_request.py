"""One batch upsert: it is sent, its answer is judged, and what it came to is put down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from hubspot_sync.answer import Answer
from hubspot_sync.classification import Unavailable, Verdict, classify
from hubspot_sync.errors import NoAnswer
from hubspot_sync.record import record_upsert
from hubspot_sync.spans import describe, upsert_span
from hubspot_sync.target_account import TargetAccount
from hubspot_sync.translation import ContactUpsert
from sqlalchemy_outbox.settling.deliveries import Delivery
from sqlalchemy_outbox.tracing import traceparent_of

log = logging.getLogger(__name__)


async def ask_to_upsert(
    account: TargetAccount, upserts: Sequence[ContactUpsert]
) -> tuple[Answer | None, Verdict, Delivery]:
    """The answer, None where none came; what follows from it; and the record to keep."""
    began_at = time.monotonic()
    with upsert_span(upserts) as span:
        answer, verdict = await _exchange(account, upserts)
        record = replace(record_upsert(upserts, began_at, verdict, answer), traceparent=traceparent_of(span))
        describe(span, record)
    return answer, verdict, record


async def _exchange(account: TargetAccount, upserts: Sequence[ContactUpsert]) -> tuple[Answer | None, Verdict]:
    personal = {value for upsert in upserts for value in upsert.personal_values}
    try:
        answer = await account.client.upsert_contacts([upsert.as_input() for upsert in upserts], personal)
    except NoAnswer as error:
        return None, Unavailable(str(error))
    if answer.status != 200:
        log.debug("%s (correlation id %s)", answer.summary(), answer.correlation_id or "none")
    judge = partial(classify, answer, upserts, now=datetime.now(UTC), time_zone=account.time_zone)
    # What takes long to read takes long to judge.
    return answer, await asyncio.to_thread(judge) if answer.is_large else judge()
