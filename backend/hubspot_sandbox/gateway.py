"""What stands in front of HubSpot's API: the journal, faults, tokens and limits, in the order a request meets them.

request ─▶ delay ─▶ faults at the edge ─▶ token ─▶ daily limit ─▶ ten-second limit ─▶ faults of the API ─▶ handler
                                                                                                            │
client ◀─ delay ◀─ journal ◀─ faults that spoil the answer of work already done ◀───────────────────────────┘
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account, is_public_app
from hubspot_sandbox.call import Call
from hubspot_sandbox.errors import HubSpotError
from hubspot_sandbox.fault_answers import CORRELATION_ID, answer_instead, json_response, refuse_input, spoil
from hubspot_sandbox.faults import MetFaults, Stage
from hubspot_sandbox.journal import RequestRecord
from hubspot_sandbox.limits import SEARCH_WINDOW_SECONDS, WINDOW_SECONDS
from hubspot_sandbox.transport import Reset
from hubspot_sandbox.wire import Answer

logger = logging.getLogger("hubspot_sandbox")


Handler: TypeAlias = Callable[[Account, Call], Answer]


class Admission(Enum):
    """Which limits a request counts against."""

    NORMAL = auto()
    SEARCH = auto()
    """The day's, and the account's limit for searches in place of the token's ten-second limit."""
    EXEMPT = auto()


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request must have to reach its handler."""

    scopes: tuple[str, ...] = ()
    """One of them is enough; none are needed where there are none."""
    admission: Admission = Admission.NORMAL


class Gateway:
    def __init__(self, account: Account) -> None:
        self._account = account
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Answers that a fault delays are sent now."""
        self._closing.set()

    def endpoint(self, handler: Handler, needs: Needs) -> Callable[[Request], Awaitable[Response]]:
        """`handler` as a Starlette endpoint that HubSpot's front door protects."""

        async def answer(request: Request) -> Response:
            try:
                call = await _read_call(request)
            except ClientDisconnect:
                return Response()  # Nobody reads it.
            met = self._meet(call)
            call.meet_fault = _input_fault(met)
            await self._pause(met.delay_before_seconds)
            response = self._answer(call, handler, needs, met)
            await self._pause(met.delay_after_seconds)
            return response

        return answer

    def _meet(self, call: Call) -> MetFaults:
        account = self._account
        return account.faults.meet(
            call, account.clock(), account.random, account.schema.key_properties(), account.contacts.names_of
        )

    def _answer(self, call: Call, handler: Handler, needs: Needs, met: MetFaults) -> Response:
        now, started = self._account.clock(), time.perf_counter()
        correlation_id = self._account.new_uuid()
        response = self._respond(call, handler, needs, met, correlation_id)
        self._record(call, response, met, now, (time.perf_counter() - started) * 1000, correlation_id)
        return response

    def _respond(self, call: Call, handler: Handler, needs: Needs, met: MetFaults, correlation_id: str) -> Response:
        headers = {CORRELATION_ID: correlation_id}
        fault = met.answering
        stage = fault and fault.kind.stage
        if fault and stage is Stage.EDGE:
            if fault.wanted.after_applying:
                self._carry_out(call, handler, correlation_id)
            return answer_instead(fault, headers, self._account.switches)
        try:
            self._admit(call, needs, headers)
        except HubSpotError as error:
            return json_response(_refused(error, correlation_id), headers)
        if fault and stage is Stage.API and not fault.wanted.after_applying:
            return answer_instead(fault, headers, self._account.switches)
        answer = self._carry_out(call, handler, correlation_id)
        if fault is None:
            return json_response(answer, headers)
        if stage is Stage.API:
            return answer_instead(fault, headers, self._account.switches)
        return spoil(fault, answer, headers, self._pause)

    def _carry_out(self, call: Call, handler: Handler, correlation_id: str) -> Answer:
        try:
            return handler(self._account, call)
        except HubSpotError as error:
            return _refused(error, correlation_id)

    def _admit(self, call: Call, needs: Needs, headers: dict[str, str]) -> None:
        """Count the request against its limits and fill in their headers, or refuse it."""
        if not self._account.accepts(call.token):
            raise errors.unauthenticated()
        if needs.admission is not Admission.EXEMPT:
            self._count(call, needs.admission, headers)
        if needs.scopes and self._account.settings.scopes.isdisjoint(needs.scopes):
            raise errors.missing_scopes(needs.scopes, self._account.switches.missing_scopes_in)

    def _count(self, call: Call, admission: Admission, headers: dict[str, str]) -> None:
        account, now = self._account, self._account.clock()
        is_search = admission is Admission.SEARCH
        daily = account.daily_limit
        window = account.search_limit if is_search else account.rolling_limit(call.token)
        within_day = daily.remaining(now) > 0
        passes = within_day and window.take(now) and daily.take(now)
        # As recorded: a search shows no burst headers, a public app's request no daily ones.
        if not is_search:
            headers |= _burst_headers(window.maximum, window.remaining(now))
        if not is_public_app(call.token):
            headers["X-HubSpot-RateLimit-Daily"] = str(daily.maximum)
            headers["X-HubSpot-RateLimit-Daily-Remaining"] = str(daily.remaining(now))
        if passes:
            return
        if not within_day:
            raise errors.daily_limit(account.new_uuid())
        if account.switches.retry_after_on_throttle:
            headers["Retry-After"] = str(int(SEARCH_WINDOW_SECONDS if is_search else WINDOW_SECONDS))
        if is_search:
            raise errors.secondly_limit(with_policy_name=account.switches.search_policy_name)
        raise errors.ten_secondly_limit()

    def _record(
        self, call: Call, response: Response, met: MetFaults, now: float, duration_ms: float, correlation_id: str
    ) -> None:
        status = None if isinstance(response, Reset) else response.status_code
        inputs = None if call.inputs is None else len(call.inputs)
        kind = met.shown and met.shown.value
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

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)


async def _read_call(request: Request) -> Call:
    return Call(
        request.method,
        request.url.path,
        request.path_params,
        request.query_params,
        request.headers,
        await request.body(),
        f"{request.url.scheme}://{request.url.netloc}",
    )


def _burst_headers(maximum: int, remaining: int) -> dict[str, str]:
    """The `Secondly` pair is still sent and no longer enforced."""
    return {
        "X-HubSpot-RateLimit-Max": str(maximum),
        "X-HubSpot-RateLimit-Remaining": str(remaining),
        "X-HubSpot-RateLimit-Interval-Milliseconds": str(int(WINDOW_SECONDS * 1000)),
        "X-HubSpot-RateLimit-Secondly": str(maximum // 10),
        "X-HubSpot-RateLimit-Secondly-Remaining": str(min(maximum // 10, remaining)),
    }


def _input_fault(met: MetFaults) -> Callable[[int], None]:
    def meet(position: int) -> None:
        if fault := met.spoilt_inputs.get(position):
            refuse_input(fault)

    return meet


def _refused(error: HubSpotError, correlation_id: str) -> Answer:
    return Answer(error.status, error.as_body(correlation_id), error.headers)
