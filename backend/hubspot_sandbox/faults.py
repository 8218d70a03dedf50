"""Faults on request: what may go wrong between a client and HubSpot, and which requests it happens to.

This module decides which faults a request meets; `fault_answers.py` says what each of them answers.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from itertools import count
from random import Random
from typing import TypedDict

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from hubspot_sandbox.call import Call


class Stage(Enum):
    """Where on a request's way a fault acts."""

    EDGE = auto()
    """What stands before the API answers; it looks at no token and counts against no limit."""
    API = auto()
    """The API received and counted the request, and did nothing with it."""
    INPUT = auto()
    """The work is done, save for some inputs."""
    ANSWER = auto()
    """The work is done; its answer is spoilt."""
    DELAY = auto()
    """The request is answered, late."""


class FaultKind(StrEnum):
    """Every kind, where it acts, and what it does."""

    stage: Stage
    meaning: str

    # A kind found by its value alone, as in FaultKind("down"), never comes here; the defaults are for type checkers.
    def __new__(cls, value: str, stage: Stage = Stage.EDGE, meaning: str = "") -> "FaultKind":
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.stage = stage
        kind.meaning = meaning
        return kind

    DOWN = "down", Stage.EDGE, "every connection is reset, nothing is applied"
    RESET = "reset", Stage.EDGE, "the connection is reset, nothing is applied"
    SERVER_ERROR = "server_error", Stage.EDGE, "500, HTML"
    BAD_GATEWAY = "bad_gateway", Stage.EDGE, "502, HTML"
    UNAVAILABLE = "unavailable", Stage.EDGE, "503, HTML"
    GATEWAY_TIMEOUT = "gateway_timeout", Stage.EDGE, "504, HTML, nothing is applied"
    CDN_PAGE = "cdn_page", Stage.EDGE, "an HTML page of the CDN with the `status` asked for, 520 unless told"
    BLOCKED = "blocked", Stage.EDGE, "403 from the CDN, HTML"
    REDIRECT = "redirect", Stage.EDGE, "307 to `location`, or the `status` asked for"
    REQUEST_TIMEOUT = "request_timeout", Stage.EDGE, "408, empty"
    TOO_LARGE = "too_large", Stage.EDGE, "413 for more than one input"
    URI_TOO_LONG = "uri_too_long", Stage.EDGE, "414 for more than one input"
    MIGRATING = "migrating", Stage.EDGE, "477 with Retry-After, 60 s unless told"
    WRONG_HUBLET = "wrong_hublet", Stage.EDGE, "488 naming the right one"
    REVOKED = "revoked", Stage.EDGE, "401 INVALID_AUTHENTICATION"
    EXPIRED = "expired", Stage.EDGE, "401 EXPIRED_AUTHENTICATION"
    CUSTOM = "custom", Stage.EDGE, "`status`, `body`, `content_type` and `headers` as asked; 500 and empty unless told"

    THROTTLE = "throttle", Stage.API, "429 TEN_SECONDLY_ROLLING"
    THROTTLE_DAILY = "throttle_daily", Stage.API, "429 DAILY"
    THROTTLE_SECONDLY = "throttle_secondly", Stage.API, "429 in the search limit's body, without a policy name"
    THROTTLE_UNKNOWN = "throttle_unknown", Stage.API, "429 of a policy nobody has heard of"
    PAYMENT_REQUIRED = "payment_required", Stage.API, "402"
    MISSING_SCOPES = "missing_scopes", Stage.API, "403 MISSING_SCOPES naming `scopes`"
    FORBIDDEN = "forbidden", Stage.API, "403 of another category: the subscription lacks the feature"
    NO_SUCH_PATH = "no_such_path", Stage.API, "404, as for a path or version that does not exist"
    CONFLICT = "conflict", Stage.API, "409 CONFLICT that names neither input nor contact"
    RECORD_FULL = "record_full", Stage.API, "414, the contact has 250 addresses"
    LOCKED = "locked", Stage.API, "423"
    REFUSED = "refused", Stage.API, "400 VALIDATION_ERROR with `code`, whole request, trace ids or not"
    UNREADABLE = "unreadable", Stage.API, "400 without a category, as for bad JSON"
    WRONG_OBJECT = "wrong_object", Stage.API, "400 without a category, as for a wrong object name"
    EMPTY_RESULTS = "empty_results", Stage.API, "200 that names no input, nothing is applied"
    CANCELED = "canceled", Stage.API, "200 with status CANCELED, nothing is applied"
    PENDING = "pending", Stage.API, "200 with status PENDING, nothing is applied"

    INPUT_REFUSED = "input_refused", Stage.INPUT, "the input is refused with VALIDATION_ERROR and `code`"
    INPUT_CONFLICT = "input_conflict", Stage.INPUT, "the input is refused with CONFLICT, no contact named"
    INPUT_THROTTLED = "input_throttled", Stage.INPUT, "the input is refused with RATE_LIMITS"
    INPUT_FAILED = "input_failed", Stage.INPUT, "the input is refused without a category"
    INPUT_IGNORED = "input_ignored", Stage.INPUT, "the input is neither written nor named in the answer"
    INPUT_LOST_RACE = (
        "input_lost_race",
        Stage.INPUT,
        "another request creates the contact first; the input gets 400 PropertyValueCoordinates",
    )

    RESET_AFTER_APPLYING = "reset_after_applying", Stage.ANSWER, "the write is applied, then the connection is reset"
    GATEWAY_TIMEOUT_AFTER_APPLYING = (
        "gateway_timeout_after_applying",
        Stage.ANSWER,
        "the write is applied, then 524, HTML",
    )
    PARTIAL_RESULTS = "partial_results", Stage.ANSWER, "all is applied, the answer leaves out one input"
    REVERSED_RESULTS = "reversed_results", Stage.ANSWER, "all is applied, results come newest contact first"
    NO_TRACE_ECHO = "no_trace_echo", Stage.ANSWER, "results do not repeat objectWriteTraceId"
    UNNAMED_ERRORS = "unnamed_errors", Stage.ANSWER, "the errors of a 207 name no input"
    WRONG_PORTAL = "wrong_portal", Stage.ANSWER, "the account details show another portal"
    EMPTY_BODY = "empty_body", Stage.ANSWER, "the work is done, the body is empty"
    HTML_BODY = "html_body", Stage.ANSWER, "the work is done, the body is a web page"
    MALFORMED_BODY = "malformed_body", Stage.ANSWER, "the work is done, the body is half its JSON"
    TRUNCATED_BODY = "truncated_body", Stage.ANSWER, "the work is done, the connection closes within the body"
    HUGE_BODY = "huge_body", Stage.ANSWER, "the work is done, the body has 64 MiB"
    DRIPPING_BODY = "dripping_body", Stage.ANSWER, "the work is done, the body comes a byte every `delay` seconds"

    SLOW = "slow", Stage.DELAY, "the work is done at once, the answer comes `delay` seconds later"
    SLOW_TO_APPLY = "slow_to_apply", Stage.DELAY, "the work is done `delay` seconds later, heard or not"


_BATCHES_ONLY = {
    FaultKind.EMPTY_RESULTS,
    FaultKind.CANCELED,
    FaultKind.PENDING,
    FaultKind.PARTIAL_RESULTS,
    FaultKind.REVERSED_RESULTS,
    FaultKind.NO_TRACE_ECHO,
    FaultKind.UNNAMED_ERRORS,
}
_SEVERAL_INPUTS_ONLY = {FaultKind.TOO_LARGE, FaultKind.URI_TOO_LONG}


class FaultOptions(TypedDict, total=False):
    """What `FaultWanted` takes besides the kind."""

    seconds: float | None
    requests: int | None
    path: str
    contact: str | None
    share: float
    delay: float
    retry_after: int | None
    after_applying: bool
    scopes: tuple[str, ...]
    code: str
    status: int | None
    body: str
    content_type: str
    headers: dict[str, str]
    location: str


class FaultWanted(BaseModel):
    """A fault to switch on: for `seconds`, for the next `requests`, for whichever ends first, or until removed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    seconds: PositiveFloat | None = None
    requests: PositiveInt | None = None
    path: str = ""
    """Only requests whose path contains it."""
    contact: str | None = None
    """Only requests about this contact: its record id, an address or another unique value, existing yet or not."""
    share: float = Field(default=1.0, gt=0, le=1)
    """How many of those requests, at random by the seed: 0.05 is one in twenty."""
    delay: PositiveFloat = 1.0
    """Seconds."""
    retry_after: PositiveInt | None = None
    """Seconds in a Retry-After header."""
    after_applying: bool = False
    """The request is carried out before the fault answers it."""
    scopes: tuple[str, ...] = ("crm.objects.contacts.write",)
    code: str = "INVALID_OPTION"
    status: int | None = Field(default=None, ge=200, le=599)
    body: str = ""
    content_type: str = "text/plain"
    headers: dict[str, str] = Field(default_factory=dict)
    location: str = "/crm/moved"


@dataclass(slots=True, eq=False)
class Fault:
    """A fault that is switched on."""

    id: int
    wanted: FaultWanted
    until: float | None
    requests_left: int | None

    @property
    def kind(self) -> FaultKind:
        return self.wanted.kind

    def is_over(self, now: float) -> bool:
        spent = self.requests_left is not None and self.requests_left <= 0
        return spent or (self.until is not None and self.until <= now)

    def concerns(self, call: Call) -> bool:
        """Whether a request like this can meet it, whatever contacts it is about."""
        if self.wanted.path not in call.path:
            return False
        if self.kind is FaultKind.WRONG_PORTAL:
            return call.path.endswith("/details")
        if self.kind in _SEVERAL_INPUTS_ONLY:
            return len(call.inputs or ()) > 1
        if self.kind.stage is Stage.INPUT:
            return call.writes_contacts
        return call.is_batch or self.kind not in _BATCHES_ONLY

    def as_json(self, now: float) -> dict[str, object]:
        return {
            "id": self.id,
            "meaning": self.kind.meaning,
            "seconds_left": None if self.until is None else max(0.0, round(self.until - now, 3)),
            "requests_left": self.requests_left,
            **self.wanted.model_dump(mode="json", exclude={"seconds", "requests"}),
        }


@dataclass(frozen=True, slots=True)
class MetFaults:
    """What one request meets."""

    answering: Fault | None = None
    spoilt_inputs: dict[int, Fault] = field(default_factory=dict)
    """By the input's position; position 0 for a call without inputs."""
    delay_before_seconds: float = 0.0
    delay_after_seconds: float = 0.0
    shown: FaultKind | None = None
    """The one to name in the journal."""


Aliases = Callable[[str], Collection[str]]
"""All the names of the contact that goes by this one, itself included."""


@dataclass(slots=True)
class Faults:
    """The active faults, oldest first."""

    _active: list[Fault] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: count(1))

    def add(self, wanted: FaultWanted, now: float) -> Fault:
        until = None if wanted.seconds is None else now + wanted.seconds
        fault = Fault(next(self._ids), wanted, until, wanted.requests)
        self._active.append(fault)
        return fault

    def active(self, now: float) -> list[Fault]:
        self._active = [fault for fault in self._active if not fault.is_over(now)]
        return list(self._active)

    def remove(self, fault_id: int) -> None:
        self._active = [fault for fault in self._active if fault.id != fault_id]

    def clear(self) -> None:
        self._active.clear()

    def meet(
        self, call: Call, now: float, random: Random, key_properties: Collection[str], aliases: Aliases
    ) -> MetFaults:
        """The faults this request meets, each counted: the oldest that answers it, all that delay it or its inputs."""
        answering: Fault | None = None
        spoilt_inputs: dict[int, Fault] = {}
        before = after = 0.0
        met: list[Fault] = []
        for fault in self.active(now):
            answers = fault.kind.stage not in (Stage.DELAY, Stage.INPUT)
            if (answers and answering) or not fault.concerns(call):
                continue
            positions = _positions(fault, call, key_properties, aliases)
            if not positions or (fault.wanted.share < 1 and random.random() >= fault.wanted.share):
                continue
            if fault.kind is FaultKind.SLOW:
                after += fault.wanted.delay
            elif fault.kind is FaultKind.SLOW_TO_APPLY:
                before += fault.wanted.delay
            elif fault.kind.stage is Stage.INPUT:
                spoilt_inputs = {**dict.fromkeys(positions, fault), **spoilt_inputs}
            else:
                answering = fault
            met.append(fault)
            if fault.requests_left is not None:
                fault.requests_left -= 1
        shown = answering or next(iter(met), None)
        return MetFaults(answering, spoilt_inputs, before, after, shown.kind if shown else None)


def _positions(fault: Fault, call: Call, key_properties: Collection[str], aliases: Aliases) -> list[int]:
    """The inputs of the call that the fault is about."""
    if fault.wanted.contact is None:
        return list(range(len(call.inputs or ()) or 1))
    wanted = set(aliases(fault.wanted.contact))
    return [i for i, names in enumerate(call.names(key_properties)) if names & wanted]
