"""Every answer HubSpot can give has one consequence, decided here: by status, category and code; by text last.

Settled        inputs have findings of their own; those without one are named by no error and are divided
Throttled      everyone waits; nobody is charged
Held           only a person can mend it; the reason names the remedy
Unavailable    nothing usable came back; counts as an outage
RefusedWhole   something about one input, unnamed, spoiled the request: divide it until that one stands alone
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from hubspot_sync.answer import Answer, BatchBody, ContactResult, ErrorBody, ErrorDetail, RowError
from hubspot_sync.limits import until_midnight
from hubspot_sync.translation import ContactUpsert
from outbox.outcome import Postponed, Rejected, Retry

# A concurrent create settles in about a second.
CONFLICT_WAIT = timedelta(seconds=1)
# HubSpot locks a record for about two seconds; one still locked after that is left alone for longer.
LOCK_WAIT = timedelta(seconds=2)
LONG_LOCK_WAIT = timedelta(seconds=30)

SCOPES_NEEDED = ("crm.objects.contacts.write", "crm.schemas.contacts.read")

_SCHEMA_CODES = {"PROPERTY_DOESNT_EXIST", "READ_ONLY_VALUE"}
_CONFLICT_CATEGORIES = {"CONFLICT", "OBJECT_ALREADY_EXISTS"}
# Anchored, because a value that HubSpot quotes could hold any of these words.
_NON_UNIQUE_KEY = re.compile(r"Unable to perform \S+ by non-unique \S+ property (\w+)")
_UNKNOWN_OBJECT = re.compile(r"Unable to infer object type from")
_COORDINATES = re.compile(r"Cannot set PropertyValueCoordinates\{")
_PROPERTY_OF_COORDINATES = re.compile(r"propertyName=(\w+)")
_HOLDER_OF_COORDINATES = re.compile(r"(\d+) already has that value\.?$")
_EXISTING_ID = re.compile(r"Existing ID: (\d+)")

_REMEDIES = {
    "INVALID_EMAIL": "Correct the address",
    "INVALID_OPTION": "Add the option to the property in HubSpot (`provision` adds the declared ones)",
    "MISSING_REQUIRED_PROPERTY": "A rule of the account requires this property on new contacts: relax it in HubSpot",
    "MISSING_CONDITIONAL_REQUIRED_PROPERTY": "A rule of the account requires this property: relax it in HubSpot",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A result names the input: the contact of this record id has its properties."""

    record_id: str


@dataclass(frozen=True, slots=True)
class Contested:
    """A unique value of the input is another contact's, or the contact it is about is gone: see `identity`.

    `property` and `holder`, a record id, are None where HubSpot does not name them.
    """

    property: str | None
    holder: str | None
    reason: str


# How a finding's words begin when they are HubSpot's.
REFUSAL = "HubSpot refused it: "

Finding = Written | Contested | Rejected | Retry | Postponed


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
class Settled:
    """Findings by the inputs' trace ids; `shut` is what one of the inputs' errors means for everyone."""

    findings: dict[str, Finding]
    shut: Throttled | Held | None = None


@dataclass(frozen=True, slots=True)
class RefusedWhole:
    """`finding` is that of the guilty input once it stands alone.

    `repeat_after`: the trouble passes; the request is repeated once before it is divided. `is_of_all`: the inputs are
    guilty together, as of a request's size. `suspicion`: if none of the inputs gets through, all will be refused.
    """

    finding: Finding
    repeat_after: timedelta | None = None
    is_of_all: bool = False
    suspicion: Held | None = field(default=None, kw_only=True)


Refusal = Throttled | Held | Unavailable
Verdict = Settled | Refusal | RefusedWhole


def classify(answer: Answer, upserts: Sequence[ContactUpsert], *, now: datetime, time_zone: ZoneInfo | None) -> Verdict:
    """Return the consequence of a batch upsert's answer."""
    if answer.is_success:
        body = answer.batch()
        return Unavailable("HubSpot's answer is no JSON") if body is None else _per_input(answer, body, upserts)
    return classify_refusal(answer, now=now, time_zone=time_zone) or _refused_whole(answer)


def classify_refusal(answer: Answer, *, now: datetime, time_zone: ZoneInfo | None) -> Refusal | None:
    """Return the consequence of a refusal that concerns every request; None when it concerns this one's inputs."""
    status, error, summary = answer.status, answer.error(), answer.summary()
    match status:
        case 429 | 477:
            return _throttled(answer, now, time_zone)
        case 408 | 425:
            return Unavailable(summary)
        case 401:
            return Held(
                f"{summary}. HUBSPOT_PRIVATE_APP_TOKEN is not accepted: set a valid token and restart the worker."
            )
        case 402:
            return Held(f"{summary}. The account's subscription does not cover this call.")
        case 403:
            return _forbidden(answer)
        case 400 if _is_schema_problem(error):
            return Held(_schema_reason(error))
        case 404 if error.category == "OBJECT_NOT_FOUND":
            return None
        case 400 | 409 | 413 | 414 | 423:
            return None
        case 488:
            return Held(f"{summary}. Set HUBSPOT_BASE_URL to the host that HubSpot names.")
        case _ if status >= 500:
            return Unavailable(summary)
        case _ if status < 400:
            host = urlsplit(answer.headers.get("location", "")).hostname or "nowhere"
            return Held(f"{summary}, a redirect to {host}. Redirects are not followed: check HUBSPOT_BASE_URL.")
        case _:
            return Held(f"{summary}. Check HUBSPOT_BASE_URL and HUBSPOT_API_VERSION.")


def _throttled(answer: Answer, now: datetime, time_zone: ZoneInfo | None) -> Throttled:
    error = answer.error()
    is_daily = "DAILY" in error.policy_name.upper() or "daily limit" in error.message.lower()
    wait = answer.retry_after()
    if wait is None and is_daily:
        wait = until_midnight(now, time_zone)
    return Throttled(wait, answer.summary())


def _forbidden(answer: Answer) -> Held | Unavailable:
    error, summary = answer.error(), answer.summary()
    if answer.body is None:
        # A page of the CDN, which blocks addresses and not tokens.
        return Unavailable(summary)
    if error.category == "MISSING_SCOPES":
        named = [it for detail in (error, *error.errors) for it in detail.context.get("requiredGranularScopes", [])]
        scopes = ", ".join(dict.fromkeys(named)) or " and ".join(SCOPES_NEEDED)
        return Held(f"HubSpot answered 403: MISSING_SCOPES. Grant the token {scopes}.")
    return Held(f"{summary}. The account's subscription, or the token's owner, may not make this call.")


def _is_schema_problem(error: ErrorDetail) -> bool:
    return bool(
        any(it.code in _SCHEMA_CODES for it in error.problems)
        or _NON_UNIQUE_KEY.match(error.message)
        or _UNKNOWN_OBJECT.match(error.message)
    )


def _schema_reason(error: ErrorDetail) -> str:
    def named(code: str) -> str:
        names = {it.property_name for it in error.problems if it.code == code and it.property_name}
        return ", ".join(sorted(names)) or "that an event sets"

    if any(it.code == "PROPERTY_DOESNT_EXIST" for it in error.problems):
        return f"the account lacks the properties {named('PROPERTY_DOESNT_EXIST')}: run `provision` to create them."
    if any(it.code == "READ_ONLY_VALUE" for it in error.problems):
        return (
            f"the properties {named('READ_ONLY_VALUE')} are read-only in the account: "
            "delete or rename them in HubSpot, then run `provision`."
        )
    if key := _NON_UNIQUE_KEY.match(error.message):
        return (
            f"the account's property {key[1]} is not unique, so contacts cannot be found by it: "
            "run `provision --plan`, which says what to do."
        )
    return f"{error.message}: run `provision --plan` to see what differs from what the events need."


def _refused_whole(answer: Answer) -> RefusedWhole:
    error = answer.error()
    finding = _finding(error, answer)
    match answer.status:
        case 409:
            finding = finding if isinstance(finding, Contested) else _contested(error, answer)
            return RefusedWhole(finding, CONFLICT_WAIT)
        case 423:
            return RefusedWhole(Postponed(answer.summary(), LONG_LOCK_WAIT), LOCK_WAIT)
        case 413 | 414:
            return RefusedWhole(Rejected(_with_correlation_id(answer.summary(), answer)), is_of_all=True)
        case 404:
            held = Held(f"{answer.summary()}. Check HUBSPOT_BASE_URL and HUBSPOT_API_VERSION.")
            return RefusedWhole(_contested(error, answer), suspicion=held)
        case _ if isinstance(finding, Contested) or error.problems or "gdpr" in error.message.lower():
            return RefusedWhole(finding)
        case _:
            held = Held(f"{answer.summary()}. HubSpot cannot use our requests; this needs a developer.")
            return RefusedWhole(Rejected(_rejection(error, answer)), suspicion=held)


def _per_input(answer: Answer, body: BatchBody, upserts: Sequence[ContactUpsert]) -> Verdict:
    """An input is delivered only if a result names it: never by position, never by the absence of an error."""
    if body.status not in ("COMPLETE", ""):
        return Unavailable(f"HubSpot's answer has status {body.status[:20]}, so nothing is known of its inputs")
    findings: dict[str, Finding] = {}
    anonymous = [it.error for it in body.errors if not any(_names(it, upsert) for upsert in upserts)]
    shut = next((it for error in anonymous if (it := _shut_by(error, answer))), None)
    for upsert in upserts:
        if (result := _result_of(upsert, body.results)) is not None:
            findings[upsert.trace_id] = Written(result.id)
        elif (error := _error_of(upsert, body.errors)) is not None:
            shuts = _shut_by(error, answer)
            shut = shut or shuts
            findings[upsert.trace_id] = Postponed() if shuts else _finding(error, answer)
    unnamed = [it.trace_id for it in upserts if it.trace_id not in findings]
    if not findings and not body.errors:
        return Unavailable("HubSpot's answer names none of the inputs")
    if shut:
        return Settled(findings | dict.fromkeys(unnamed, Postponed()), shut)
    if anonymous and len(unnamed) == 1:
        return Settled(findings | {unnamed[0]: _finding(anonymous[0], answer)})
    if anonymous:
        return Settled(findings)
    return Settled(findings | dict.fromkeys(unnamed, Retry("HubSpot's answer names other inputs and not this one")))


def _result_of(upsert: ContactUpsert, results: Sequence[ContactResult]) -> ContactResult | None:
    """The result that names the input: by trace id; where that was not echoed, by a key it wrote, else by id."""
    traced = next((it for it in results if it.trace_id == upsert.trace_id), None)
    return traced or next((it for it in results if not it.trace_id and _is_about(it, upsert)), None)


def _is_about(result: ContactResult, upsert: ContactUpsert) -> bool:
    for name, value in upsert.unique_values.items():
        if isinstance(written := result.properties.get(name), str):
            return written.strip() == value
    return result.id == upsert.key


def _error_of(upsert: ContactUpsert, errors: Sequence[RowError]) -> ErrorDetail | None:
    return next((it.error for it in errors if _names(it, upsert)), None)


def _names(error: RowError, upsert: ContactUpsert) -> bool:
    return upsert.trace_id in error.names or upsert.key in error.names


def _shut_by(error: ErrorDetail, answer: Answer) -> Throttled | Held | None:
    """What one input's error means for everyone."""
    if _is_schema_problem(error):
        return Held(_schema_reason(error))
    if error.category == "RATE_LIMITS":
        return Throttled(answer.retry_after(), f"HubSpot refused an input: {error.category}: {error.message}")
    return None


def _finding(error: ErrorDetail | ErrorBody, answer: Answer) -> Finding:
    """What becomes of the one input that `error` is about."""
    is_conflict = (
        error.category in _CONFLICT_CATEGORIES
        or any(it.code == "CONFLICTING_UNIQUE_VALUE" for it in error.problems)
        or _COORDINATES.match(error.message)
    )
    if is_conflict or error.category == "OBJECT_NOT_FOUND":
        return _contested(error, answer)
    if error.category == "VALIDATION_ERROR" or error.problems or answer.status == 400:
        return Rejected(_rejection(error, answer))
    return Retry(_with_correlation_id(f"{REFUSAL}{error.category}: {error.message}", answer))


def _contested(error: ErrorDetail | ErrorBody, answer: Answer) -> Contested:
    reason = _with_correlation_id(f"{REFUSAL}{error.category or answer.status}: {error.message}", answer)
    for message in (error.message, *(it.message for it in error.errors)):
        if _COORDINATES.match(message):
            property_, holder = _PROPERTY_OF_COORDINATES.search(message), _HOLDER_OF_COORDINATES.search(message)
            return Contested(property_ and property_[1], holder and holder[1], reason)
    named = next((it.property_name for it in error.problems if it.property_name), None)
    existing = next(iter(error.context.get("existingId", [])), None)
    if existing is None and (found := _EXISTING_ID.search(error.message)):
        existing = found[1]
    if named is None and error.category in _CONFLICT_CATEGORIES and error.message.startswith("Contact already exists"):
        named = "email"
    return Contested(named, existing, reason)


def _rejection(error: ErrorDetail, answer: Answer) -> str:
    """Why the event failed, for the person who is to mend it."""
    if "gdpr" in error.message.lower():
        words = f"{error.message}. The person was deleted for good: HubSpot never accepts this address again"
    elif error.problems:
        words = "; ".join(_problem(it) for it in error.problems)
        remedies = dict.fromkeys(_REMEDIES[it.code] for it in error.problems if it.code in _REMEDIES)
        words = ". ".join([words, *remedies])
    else:
        words = error.message or f"it answered {answer.status}"
    return _with_correlation_id(f"{REFUSAL}{words}", answer)


def _problem(problem: ErrorDetail) -> str:
    where = f"{problem.property_name}: " if problem.property_name else ""
    return f"{where}{problem.message} ({problem.code})"


def _with_correlation_id(text: str, answer: Answer) -> str:
    return f"{text} (correlation id {answer.correlation_id})" if answer.correlation_id else text
