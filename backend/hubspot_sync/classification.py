"""Every answer HubSpot can give has one consequence, decided here: by status and category first, by text last.

Settled        each input has an outcome of its own
Throttled      everyone waits; nobody is charged
Held           only a person can mend it; the reason names the remedy
Unavailable    nothing usable came back; counts as an outage
RefusedWhole   one input spoiled the request, unnamed: divide it until that one stands alone
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from hubspot_sync.client import Answer, BatchBody, ErrorBody, ErrorDetail
from hubspot_sync.translation import ContactUpsert
from outbox.outcome import Delivered, Outcome, Postponed, Rejected, Retry

# A rolling window of ten seconds frees capacity all the time: a short first wait costs one refused request at most.
BURST_WAIT_FIRST = timedelta(seconds=1)
BURST_WAIT_MAX = timedelta(seconds=10)
RETRY_AFTER_MIN = timedelta(seconds=1)
RETRY_AFTER_MAX = timedelta(hours=24)
# HubSpot locks a record for about two seconds.
LOCK_WAIT = timedelta(seconds=2)

_SCHEMA_CODES = {"PROPERTY_DOESNT_EXIST", "READ_ONLY_VALUE"}
_MISSING_PROPERTY = re.compile(r'Property \\?"([a-z0-9_]+)\\?" does not exist')
_CONFLICT_CODES = {"CONFLICTING_UNIQUE_VALUE"}


@dataclass(frozen=True, slots=True)
class Settled:
    """Outcomes by the inputs' trace ids."""

    outcomes: dict[str, Outcome]


@dataclass(frozen=True, slots=True)
class Throttled:
    """`wait` is None when HubSpot did not say how long."""

    wait: timedelta | None
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    reason: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    reason: str


@dataclass(frozen=True, slots=True)
class RefusedWhole:
    """`outcome` is that of the guilty input once it stands alone."""

    outcome: Outcome


Verdict = Settled | Throttled | Held | Unavailable | RefusedWhole


def classify(answer: Answer, upserts: Sequence[ContactUpsert], *, now: datetime, time_zone: ZoneInfo) -> Verdict:
    """Return the consequence of a batch upsert's answer."""
    if answer.is_success:
        body = answer.batch()
        return Unavailable("the answer is no JSON") if body is None else _per_input(body, upserts)
    if (verdict := classify_refusal(answer, now=now, time_zone=time_zone)) is not None:
        return verdict
    if answer.status == 423:
        postponed = Postponed(answer.summary(), LOCK_WAIT)
        return Settled({it.trace_id: postponed for it in upserts})
    return RefusedWhole(_outcome_of(answer.error(), answer.summary()))


def classify_refusal(answer: Answer, *, now: datetime, time_zone: ZoneInfo) -> Throttled | Held | Unavailable | None:
    """Return the consequence of a refusal that concerns every request; None when it concerns this one's inputs."""
    status, summary = answer.status, answer.summary()
    match status:
        case 429 | 477:
            return _throttled(answer, now, time_zone)
        case 408 | 425:
            return Unavailable(summary)
        case 401:
            return Held(
                f"{summary}. HUBSPOT_PRIVATE_APP_TOKEN is not accepted: set a valid token and restart the worker."
            )
        case 403 if answer.body is None:
            return Unavailable(summary)
        case 403:
            return Held(f"{summary}. Grant the token crm.objects.contacts.write and crm.schemas.contacts.write.")
        case 402:
            return Held(f"{summary}. The account's subscription does not cover this call.")
        case 400:
            return _held_by_schema(answer)
        case 409 | 413 | 414 | 423:
            return None
        case 488:
            return Held(f"{summary}. Set HUBSPOT_BASE_URL to the host that HubSpot names.")
        case _ if status >= 500:
            return Unavailable(summary)
        case _:
            return Held(f"{summary}. Check HUBSPOT_BASE_URL and HUBSPOT_API_VERSION.")


def _throttled(answer: Answer, now: datetime, time_zone: ZoneInfo) -> Throttled:
    error = answer.error()
    is_daily = "DAILY" in (error.policy_name or "").upper() or "daily limit" in error.message.lower()
    if (wait := answer.retry_after()) is not None:
        wait = min(max(wait, RETRY_AFTER_MIN), RETRY_AFTER_MAX)
    elif is_daily:
        wait = until_midnight(now, time_zone)
    return Throttled(wait, answer.summary())


def until_midnight(now: datetime, time_zone: ZoneInfo) -> timedelta:
    """How long until the account's day ends, and its daily limit with it."""
    tomorrow = now.astimezone(time_zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, datetime.min.time(), time_zone) - now


def _held_by_schema(answer: Answer) -> Held | None:
    error, summary = answer.error(), answer.summary()
    if _is_schema_problem(error):
        return Held(_schema_reason(error))
    if error.category is None and not error.errors and "PropertyValueCoordinates" not in error.message:
        return Held(f"{summary}. HubSpot cannot read the request; this needs a developer.")
    return None


def _is_schema_problem(error: ErrorDetail) -> bool:
    text = error.message
    return bool(
        error.codes() & _SCHEMA_CODES
        or "by non-unique" in text
        or "Unable to infer object type" in text
        or any(code in text for code in _SCHEMA_CODES)
    )


def _schema_reason(error: ErrorDetail) -> str:
    if missing := sorted(set(_MISSING_PROPERTY.findall(error.message))):
        return f"the account lacks the properties {', '.join(missing)}: run `provision` to create them."
    return f"{error.message}: run `provision --plan` to see what differs from what the events need."


def _per_input(body: BatchBody, upserts: Sequence[ContactUpsert]) -> Verdict:
    """An input is delivered only if a result names it: never by position, never by the absence of an error."""
    errors = {trace_id: error for error in body.errors for trace_id in error.trace_ids()}
    if schema := next((it for it in body.errors if _is_schema_problem(it)), None):
        return Held(_schema_reason(schema))
    named = {result.trace_id for result in body.results if result.trace_id}
    outcomes: dict[str, Outcome] = {}
    for upsert in upserts:
        if upsert.trace_id in named and body.status == "COMPLETE":
            outcomes[upsert.trace_id] = Delivered()
        elif (error := errors.get(upsert.trace_id)) is not None:
            outcomes[upsert.trace_id] = _outcome_of(error, f"HubSpot refused it: {error.category}: {error.message}")
        else:
            outcomes[upsert.trace_id] = Retry(f"HubSpot's answer (status {body.status}) does not name this input")
    return Settled(outcomes)


def _outcome_of(error: ErrorDetail | ErrorBody, reason: str) -> Outcome:
    """What becomes of the one input that `error` is about."""
    is_conflict = (
        error.category in ("CONFLICT", "OBJECT_ALREADY_EXISTS")
        or error.codes() & _CONFLICT_CODES
        or "PropertyValueCoordinates" in error.message
    )
    if is_conflict:
        return Retry(reason)
    if error.category == "RATE_LIMITS":
        return Postponed(reason, BURST_WAIT_FIRST)
    if error.category == "VALIDATION_ERROR":
        return Rejected(reason)
    return Retry(reason)
