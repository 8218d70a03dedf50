"""What stands in front of HubSpot's API: the journal, faults, tokens and limits, in the order a request meets them.

request ─▶ faults that answer at once ─▶ token ─▶ daily limit ─▶ ten-second limit ─▶ handler
                                                                                      │
client ◀─ delay ◀─ journal ◀─ faults that spoil the answer of work already done ◀──────┘
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.batches import Answer
from hubspot_sandbox.errors import HubSpotError
from hubspot_sandbox.faults import Fault, FaultKind, MetFaults
from hubspot_sandbox.journal import RequestRecord
from hubspot_sandbox.limits import WINDOW_SECONDS
from hubspot_sandbox.transport import Reset

logger = logging.getLogger("hubspot_sandbox")


@dataclass(frozen=True, slots=True)
class Call:
    """One API request as the handlers see it."""

    method: str
    path: str
    parameters: Mapping[str, str]
    query: QueryParams
    headers: Headers
    body: bytes

    @property
    def token(self) -> str:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    @property
    def is_batch(self) -> bool:
        return "/batch/" in self.path


Handler: TypeAlias = Callable[[Account, Call], Answer]


class Gateway:
    def __init__(self, account: Account) -> None:
        self._account = account
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Answers that a fault delays are sent now."""
        self._closing.set()

    def endpoint(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """`handler` as a Starlette endpoint that HubSpot's front door protects."""

        async def answer(request: Request) -> Response:
            try:
                call = await _read_call(request)
            except ClientDisconnect:
                return Response()  # Nobody reads it.
            response, delay_seconds = self._answer(call, handler)
            if delay_seconds:
                await self._delay(delay_seconds)
            return response

        return answer

    def _answer(self, call: Call, handler: Handler) -> tuple[Response, float]:
        now, started = self._account.clock(), time.perf_counter()
        correlation_id = self._account.new_uuid()
        met = self._account.faults.meet(call.path, now)
        response = self._respond(call, handler, met.answering, correlation_id)
        duration_ms = (time.perf_counter() - started) * 1000
        self._record(call, response, met, now, duration_ms, correlation_id)
        return response, met.delay_seconds

    def _respond(self, call: Call, handler: Handler, fault: Fault | None, correlation_id: str) -> Response:
        headers = {"X-HubSpot-Correlation-Id": correlation_id}
        try:
            if fault is not None and (response := _answer_at_once(call, fault)):
                return response
            self._admit(call, headers)
            if fault is not None and (response := _unapplied_answer(call, fault, headers)):
                return response
            answer = handler(self._account, call)
            response = _json(answer.status, answer.body, headers)
        except HubSpotError as error:
            response = _json(error.status, error.as_body(correlation_id), {**headers, **error.headers})
        return _spoilt(fault) or response

    def _admit(self, call: Call, headers: dict[str, str]) -> None:
        """Count the request against the limits and fill in their headers, or refuse it."""
        if not self._account.accepts(call.token):
            raise errors.unauthenticated()
        now = self._account.clock()
        daily, rolling = self._account.daily_limit, self._account.rolling_limit(call.token)
        within_day = daily.remaining(now) > 0
        within_window = within_day and rolling.take(now) and daily.take(now)
        headers |= {
            "X-HubSpot-RateLimit-Max": str(rolling.maximum),
            "X-HubSpot-RateLimit-Remaining": str(rolling.remaining(now)),
            "X-HubSpot-RateLimit-Interval-Milliseconds": str(int(WINDOW_SECONDS * 1000)),
            "X-HubSpot-RateLimit-Daily": str(daily.maximum),
            "X-HubSpot-RateLimit-Daily-Remaining": str(daily.remaining(now)),
        }
        if within_window:
            return
        if self._account.settings.switches.retry_after_on_throttle:
            headers["Retry-After"] = str(int(WINDOW_SECONDS))
        raise errors.ten_secondly_limit() if within_day else errors.daily_limit(self._account.new_uuid())

    def _record(
        self, call: Call, response: Response, met: MetFaults, now: float, duration_ms: float, correlation_id: str
    ) -> None:
        status = None if isinstance(response, Reset) else response.status_code
        inputs = _count_inputs(call)
        kind = met.answering.kind.value if met.answering else (FaultKind.SLOW.value if met.delay_seconds else None)
        self._account.journal.add(
            RequestRecord(now, call.method, call.path, status, inputs, duration_ms, correlation_id, kind)
        )
        logger.info(
            "%s %s %s, %s inputs, %.1f ms%s",
            call.method,
            call.path,
            status or "reset",
            inputs or 0,
            duration_ms,
            f", fault {kind}" if kind else "",
        )

    async def _delay(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return


async def _read_call(request: Request) -> Call:
    return Call(
        request.method,
        request.url.path,
        request.path_params,
        request.query_params,
        request.headers,
        await request.body(),
    )


def _answer_at_once(call: Call, fault: Fault) -> Response | None:
    """The answer of what stands before the API, which looks at no token and counts against no limit."""
    match fault.kind:
        case FaultKind.DOWN | FaultKind.RESET:
            return Reset()
        case FaultKind.SERVER_ERROR | FaultKind.BAD_GATEWAY | FaultKind.UNAVAILABLE | FaultKind.GATEWAY_TIMEOUT:
            return _cdn_page(_CDN_STATUS[fault.kind])
        case FaultKind.BLOCKED:
            return _cdn_page(403)
        case FaultKind.REVOKED:
            raise errors.unauthenticated()
        case FaultKind.EXPIRED:
            raise errors.expired()
        case FaultKind.WRONG_HUBLET:
            raise errors.wrong_hublet()
        case FaultKind.MIGRATING:
            raise errors.migrating(fault.retry_after_seconds or 60)
        case FaultKind.TOO_LARGE if (_count_inputs(call) or 0) > 1:
            raise errors.too_large()
        case _:
            return None


def _unapplied_answer(call: Call, fault: Fault, headers: dict[str, str]) -> Response | None:
    """The answer of an API that received the request and did nothing with it."""
    if fault.retry_after_seconds is not None:
        headers["Retry-After"] = str(fault.retry_after_seconds)
    match fault.kind:
        case FaultKind.THROTTLE:
            raise errors.ten_secondly_limit()
        case FaultKind.THROTTLE_DAILY:
            raise errors.daily_limit(headers["X-HubSpot-Correlation-Id"])
        case FaultKind.THROTTLE_SECONDLY:
            raise errors.secondly_limit()
        case FaultKind.LOCKED:
            raise errors.locked()
        case FaultKind.MISSING_SCOPES:
            raise errors.missing_scopes(fault.scopes)
        case FaultKind.EMPTY_RESULTS if call.is_batch:
            return _json(200, {"status": "COMPLETE", "results": []}, headers)
        case FaultKind.CANCELED if call.is_batch:
            return _json(200, {"status": "CANCELED", "results": []}, headers)
        case _:
            return None


def _spoilt(fault: Fault | None) -> Response | None:
    """What the client gets in place of the answer to work already done."""
    if fault is None:
        return None
    match fault.kind:
        case FaultKind.RESET_AFTER_APPLYING:
            return Reset()
        case FaultKind.GATEWAY_TIMEOUT_AFTER_APPLYING:
            return _cdn_page(524)
        case _:
            return None


_CDN_STATUS = {
    FaultKind.SERVER_ERROR: 500,
    FaultKind.BAD_GATEWAY: 502,
    FaultKind.UNAVAILABLE: 503,
    FaultKind.GATEWAY_TIMEOUT: 504,
}
_CDN_TITLES = {
    403: "Sorry, you have been blocked",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service temporarily unavailable",
    504: "Gateway time-out",
    524: "A timeout occurred",
}


def _cdn_page(status: int) -> Response:
    title = f"{status}: {_CDN_TITLES[status]}"
    page = (
        f"<!DOCTYPE html>\n<html><head><title>hubapi.com | {title}</title></head><body><h1>{title}</h1></body></html>"
    )
    return HTMLResponse(page, status, {"server": "cloudflare"})


def _json(status: int, body: Mapping[str, object], headers: Mapping[str, str]) -> Response:
    content = json.dumps(body, separators=(",", ":"))
    return Response(content, status, headers, media_type="application/json;charset=utf-8")


def _count_inputs(call: Call) -> int | None:
    """How many inputs a batch carries; None for other requests and for what is no batch."""
    if not call.is_batch:
        return None
    try:
        body = json.loads(call.body)
    except ValueError:
        return None
    inputs = body.get("inputs") if isinstance(body, dict) else None
    return len(inputs) if isinstance(inputs, list) else None
