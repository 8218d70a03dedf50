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
from typing import TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.call import Call
from hubspot_sandbox.errors import HubSpotError
from hubspot_sandbox.fault_answers import CORRELATION_ID, answer_instead, json_response, refuse_input, spoil
from hubspot_sandbox.faults import MetFaults, Stage
from hubspot_sandbox.journal import RequestRecord
from hubspot_sandbox.limits import WINDOW_SECONDS
from hubspot_sandbox.transport import Reset
from hubspot_sandbox.wire import Answer

logger = logging.getLogger("hubspot_sandbox")


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
            met = self._meet(call)
            call.meet_fault = _input_fault(met)
            await self._pause(met.delay_before_seconds)
            response = self._answer(call, handler, met)
            await self._pause(met.delay_after_seconds)
            return response

        return answer

    def _meet(self, call: Call) -> MetFaults:
        account = self._account
        return account.faults.meet(
            call, account.clock(), account.random, account.schema.key_properties(), account.contacts.names_of
        )

    def _answer(self, call: Call, handler: Handler, met: MetFaults) -> Response:
        now, started = self._account.clock(), time.perf_counter()
        correlation_id = self._account.new_uuid()
        response = self._respond(call, handler, met, correlation_id)
        self._record(call, response, met, now, (time.perf_counter() - started) * 1000, correlation_id)
        return response

    def _respond(self, call: Call, handler: Handler, met: MetFaults, correlation_id: str) -> Response:
        headers = {CORRELATION_ID: correlation_id}
        fault = met.answering
        stage = fault and fault.kind.stage
        if fault and stage is Stage.EDGE:
            if fault.wanted.after_applying:
                self._carry_out(call, handler, correlation_id)
            return answer_instead(fault, headers, self._account.switches)
        try:
            self._admit(call, headers)
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
        if self._account.switches.retry_after_on_throttle:
            headers["Retry-After"] = str(int(WINDOW_SECONDS))
        raise errors.ten_secondly_limit() if within_day else errors.daily_limit(self._account.new_uuid())

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
    )


def _input_fault(met: MetFaults) -> Callable[[int], None]:
    def meet(position: int) -> None:
        if fault := met.spoilt_inputs.get(position):
            refuse_input(fault)

    return meet


def _refused(error: HubSpotError, correlation_id: str) -> Answer:
    return Answer(error.status, error.as_body(correlation_id), error.headers)
