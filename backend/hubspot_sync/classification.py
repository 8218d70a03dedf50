"""Every answer HubSpot can give has one consequence, decided here: by status first; by category and code; by text last.

What an answer's headers and body say chooses among what its status allows, and what cannot be read chooses nothing.

Settled        inputs have findings of their own; those without one are named by no error and are divided
Throttled      everyone waits; nobody is charged
Held           only a person can mend it; the reason names the remedy. Of properties that are missing or read-only, the
               account's list says whom they concern
Unavailable    nothing usable came back; counts as an outage
RefusedWhole   something about one input, unnamed, spoiled the request: divide it until that one stands alone
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from hubspot_sync.answer import Answer, BatchBody, ErrorDetail
from hubspot_sync.lack import words_of_missing, words_of_not_unique, words_of_read_only
from hubspot_sync.limits import until_midnight
from hubspot_sync.naming import Naming, read_names
from hubspot_sync.translation import ContactUpsert
from sqlalchemy_outbox.outcome import Postponed, Rejected, Retry

# A concurrent create settles in about a second.
CONFLICT_WAIT = timedelta(seconds=1)
# HubSpot locks a record for about two seconds; one still locked after that is left alone for longer.
LOCK_WAIT = timedelta(seconds=2)
LONG_LOCK_WAIT = timedelta(seconds=30)

# Of one input few are wrong; of what is missing a person needs no longer list.
PROBLEMS_SHOWN_MAX = 10
STATUS_CHARS_MAX = 20
NAMES_SHOWN_MAX = 50

SCOPES_NEEDED = ("crm.objects.contacts.read", "crm.objects.contacts.write", "crm.schemas.contacts.read")

_SCHEMA_CODES = {"PROPERTY_DOESNT_EXIST", "READ_ONLY_VALUE"}
_CONFLICT_CATEGORIES = {"CONFLICT", "OBJECT_ALREADY_EXISTS"}
# Anchored, because a value that HubSpot quotes could hold any of these words. None gives back what it has matched, so
# that a text costs no more than its length.
_NON_UNIQUE_KEY = re.compile(r"Unable to perform \S{1,50}+ by non-unique \S{1,50}+ property (\w{1,100}+)")
_UNKNOWN_OBJECT = re.compile(r"Unable to infer object type from")
_COORDINATES = re.compile(r"Cannot set PropertyValueCoordinates\{")
_PROPERTY_OF_COORDINATES = re.compile(r"propertyName=(\w{1,100}+)")
_HOLDER_OF_COORDINATES = re.compile(r"(?<!\d)(\d{1,20}+) already has that value\.?$")
_EXISTING_ID = re.compile(r"Existing ID: (\d{1,20}+)")

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
# And where a contact had to be looked at first.
_NO_JSON = "HubSpot's answer is no JSON"
UNREAD = "HubSpot does not show the contact that is to be looked at: "


@dataclass(frozen=True, slots=True)
class Unexplained(Rejected):
    """HubSpot refused it and gave no code: a property may be missing, which the account's list of them says."""


@dataclass(frozen=True, slots=True)
class Blocked(Rejected):
    """HubSpot takes the address of somebody who was erased never again."""


Finding = Written | Contested | Rejected | Retry | Postponed


@dataclass(frozen=True, slots=True)
class Throttled:
    """`wait` is None when HubSpot did not say how long."""

    wait: timedelta | None
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """`is_of_properties`: some are missing or read-only. Whom that concerns, the account's list of them says."""

    reason: str
    is_of_properties: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unavailable:
    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """Findings by the inputs' trace ids; inputs without one go again in smaller requests.

    `shut` is what one of the inputs' errors means for everyone.
    """

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
        if answer.is_too_long:
            return _unread(upserts)
        body = answer.batch()
        return Unavailable(_NO_JSON) if body is None else _per_input(answer, body, upserts)
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
            return _held_by_schema(error)
        case 404 if error.category == "OBJECT_NOT_FOUND":
            return None
        case 400 | 409 | 413 | 414 | 423:
            return None
        case 488:
            return Held(f"{summary}. Set HUBSPOT_BASE_URL to the host that HubSpot names.")
        case _ if status >= 500:
            return Unavailable(summary)
        case _ if status < 200:
            return Unavailable(f"HubSpot's answer is none yet: it has status {status}")
        case _ if status < 300:
            return None
        case _ if status < 400:
            host = answer.redirect_host() or "nowhere"
            return Held(f"{summary}, a redirect to {host}. Redirects are not followed: check HUBSPOT_BASE_URL.")
        case _:
            return Held(f"{summary}. Check HUBSPOT_BASE_URL and HUBSPOT_API_VERSION.")


def objection_to_read(
    answer: Answer, *, now: datetime, time_zone: ZoneInfo | None
) -> Throttled | Held | Unavailable | Retry | Postponed | None:
    """Why a read of contacts brought nothing: a refusal of every request, or an outcome for whom it was about alone."""
    if answer.is_success:
        if answer.batch() is not None:
            return None
        return Retry(f"{UNREAD}its answer is too long") if answer.is_too_long else Unavailable(_NO_JSON)
    refusal = None if answer.status == 400 else classify_refusal(answer, now=now, time_zone=time_zone)
    if refusal is not None:
        return refusal
    words = _with_correlation_id(f"{UNREAD}{answer.summary()}", answer)
    return Postponed(words, LONG_LOCK_WAIT) if answer.status == 423 else Retry(words)


def _throttled(answer: Answer, now: datetime, time_zone: ZoneInfo | None) -> Throttled:
    error = answer.error()
    is_daily = "DAILY" in error.policy_name.upper() or "daily limit" in error.message.lower()
    wait = answer.retry_after()
    if wait is None and is_daily:
        wait = until_midnight(answer.sent_at(now), time_zone)
    return Throttled(wait, answer.summary())


def _forbidden(answer: Answer) -> Held | Unavailable:
    error, summary = answer.error(), answer.summary()
    if not answer.is_hubspots:
        # A page of the CDN, which blocks addresses and not tokens.
        return Unavailable(summary)
    if error.category == "MISSING_SCOPES":
        named = (scope for detail in (error, *error.errors) for scope in detail.context("requiredGranularScopes"))
        scopes = ", ".join(dict.fromkeys(islice(named, NAMES_SHOWN_MAX))) or ", ".join(SCOPES_NEEDED)
        return Held(f"HubSpot answered 403: MISSING_SCOPES. Grant the token {scopes}.")
    return Held(f"{summary}. The account's subscription, or the token's owner, may not make this call.")


def _is_schema_problem(error: ErrorDetail) -> bool:
    return bool(
        any(problem.raw_code in _SCHEMA_CODES for problem in error.problems)
        or _NON_UNIQUE_KEY.match(error.raw_message)
        or _UNKNOWN_OBJECT.match(error.raw_message)
    )


def _held_by_schema(error: ErrorDetail) -> Held:
    is_of_properties = any(problem.raw_code in _SCHEMA_CODES for problem in error.problems)
    return Held(_schema_reason(error), is_of_properties)


def _schema_reason(error: ErrorDetail) -> str:
    def named(code: str) -> str:
        of_this_code = (problem.property_name for problem in error.problems if problem.raw_code == code)
        names = {name for name in islice(of_this_code, NAMES_SHOWN_MAX) if name}
        return ", ".join(sorted(names)) or "that an event sets"

    if any(problem.raw_code == "PROPERTY_DOESNT_EXIST" for problem in error.problems):
        return words_of_missing(named("PROPERTY_DOESNT_EXIST"))
    if any(problem.raw_code == "READ_ONLY_VALUE" for problem in error.problems):
        return words_of_read_only(named("READ_ONLY_VALUE"))
    if key := _NON_UNIQUE_KEY.match(error.message):
        return words_of_not_unique(key[1])
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
            return RefusedWhole(Unexplained(_rejection(error, answer)), suspicion=held)


def _unread(upserts: Sequence[ContactUpsert]) -> Settled:
    """HubSpot did something, and said too much of it: of fewer inputs there is less to say."""
    if len(upserts) > 1:
        return Settled({})
    return Settled({upserts[0].trace_id: Retry("HubSpot's answer about this input alone is too long to be read")})


def _per_input(answer: Answer, body: BatchBody, upserts: Sequence[ContactUpsert]) -> Verdict:
    """An input is charged only by an answer about it alone: it names it, or all others, or there are no others."""
    if body.raw_status not in ("COMPLETE", ""):
        status = answer.shown(body.raw_status, STATUS_CHARS_MAX)
        return Unavailable(f"HubSpot's answer has status {status}, so nothing is known of its inputs")
    naming = read_names(body, upserts)
    record_ids = map(Written, answer.shown_ids(naming.written.values()))
    findings: dict[str, Finding] = dict(zip(naming.written, record_ids, strict=True))
    for trace_id, error in naming.wrong.items():
        findings[trace_id] = Postponed() if _shut_by(error, answer) else _finding(error, answer)
    left = [upsert.trace_id for upsert in upserts if upsert.trace_id not in findings]
    shuts = (_shut_by(row.error, answer) for row in body.errors)
    if (shut := next((verdict for verdict in shuts if verdict is not None), None)) is not None:
        return Settled(findings | dict.fromkeys(left, Postponed()), shut)
    if not (findings or naming.doubted or naming.unnamed):
        return Unavailable("HubSpot's answer names none of the inputs")
    if len(left) == 1 and (len(upserts) == 1 or left[0] not in naming.mentioned | naming.doubted.keys()):
        findings[left[0]] = _finding_of_the_only_one(answer, naming, left[0])
    return Settled(findings)


def _finding_of_the_only_one(answer: Answer, naming: Naming, trace_id: str) -> Finding:
    """Of an input that is alone in its request, or the only one of which the answer says nothing."""
    if (doubt := naming.doubted.get(trace_id)) is not None and not naming.unnamed:
        return Retry(f"HubSpot's answer {doubt}, which confirms nothing")
    if naming.unnamed:
        return _finding(naming.unnamed[0], answer)
    return Retry("HubSpot's answer names other inputs and not this one")


def _shut_by(error: ErrorDetail, answer: Answer) -> Throttled | Held | None:
    """What one input's error means for everyone."""
    if _is_schema_problem(error):
        return _held_by_schema(error)
    if error.raw_category == "RATE_LIMITS":
        return Throttled(answer.retry_after(), f"HubSpot refused an input: {error.category}: {error.message}")
    return None


def _finding(error: ErrorDetail, answer: Answer) -> Finding:
    """What becomes of the one input that `error` is about."""
    is_conflict = (
        error.category in _CONFLICT_CATEGORIES
        or any(problem.raw_code == "CONFLICTING_UNIQUE_VALUE" for problem in error.problems)
        or _COORDINATES.match(error.raw_message)
    )
    if is_conflict or error.category == "OBJECT_NOT_FOUND":
        return _contested(error, answer)
    if error.category == "VALIDATION_ERROR" or error.problems or answer.status == 400:
        is_of_erased = "gdpr" in error.message.lower()
        kind = Blocked if is_of_erased else Rejected if error.problems else Unexplained
        return kind(_rejection(error, answer))
    return Retry(_with_correlation_id(f"{REFUSAL}{error.category}: {error.message}", answer))


def _contested(error: ErrorDetail, answer: Answer) -> Contested:
    reason = _with_correlation_id(f"{REFUSAL}{error.category or answer.status}: {error.message}", answer)
    for detail in (error, *error.errors):
        if _COORDINATES.match(detail.raw_message):
            message = detail.message
            property_, holder = _PROPERTY_OF_COORDINATES.search(message), _HOLDER_OF_COORDINATES.search(message)
            return Contested(property_ and property_[1], holder and holder[1], reason)
    named = next((problem.property_name for problem in error.problems if problem.property_name), None)
    existing = next(error.context("existingId"), None)
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
        shown = error.problems[:PROBLEMS_SHOWN_MAX]
        words = "; ".join(_problem(problem) for problem in shown)
        remedies = dict.fromkeys(_REMEDIES[problem.code] for problem in shown if problem.code in _REMEDIES)
        words = ". ".join([words, *remedies])
    else:
        words = error.message or f"it answered {answer.status}"
    return _with_correlation_id(f"{REFUSAL}{words}", answer)


def _problem(problem: ErrorDetail) -> str:
    where = f"{problem.property_name}: " if problem.property_name else ""
    return f"{where}{problem.message} ({problem.code})"


def _with_correlation_id(text: str, answer: Answer) -> str:
    return f"{text} (correlation id {answer.correlation_id})" if answer.correlation_id else text
