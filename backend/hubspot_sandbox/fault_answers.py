"""What each fault answers.

`answer_instead` stands in for work that was not done, `spoil` for the answer to work that was, and `refuse_input` for
one input of a batch.
"""

import json
from collections.abc import Callable, Mapping
from typing import NoReturn, cast

from starlette.responses import HTMLResponse, Response

from hubspot_sandbox import errors
from hubspot_sandbox.call import InputIgnored, RaceLost
from hubspot_sandbox.errors import HubSpotError
from hubspot_sandbox.faults import Fault, FaultKind, Stage
from hubspot_sandbox.switches import Switches
from hubspot_sandbox.transport import CutOff, Dripping, Huge, Pause, Reset
from hubspot_sandbox.wire import Answer, JsonObject

JSON_TYPE = "application/json;charset=utf-8"
CORRELATION_ID = "X-HubSpot-Correlation-Id"
MIGRATION_RETRY_AFTER_SECONDS = 60


def json_response(answer: Answer, headers: Mapping[str, str]) -> Response:
    merged = {**headers, **answer.headers}
    if answer.body is None:
        return Response(b"", answer.status, merged)
    return Response(_encoded(answer.body), answer.status, merged, media_type=JSON_TYPE)


def answer_instead(fault: Fault, headers: Mapping[str, str], switches: Switches) -> Response:
    """The answer of a fault at the edge or in the API."""
    try:
        return (
            _answer_at_the_edge(fault)
            if fault.kind.stage is Stage.EDGE
            else _answer_of_the_api(fault, headers, switches)
        )
    except HubSpotError as error:
        body = error.as_body(headers[CORRELATION_ID])
        answer = Answer(error.status, body, {**error.headers, **_retry_after(fault)})
        return json_response(answer, headers)


def spoil(fault: Fault, answer: Answer, headers: Mapping[str, str], pause: Pause) -> Response:
    """What the client gets in place of `answer`, which is true."""
    response = json_response(answer, headers)
    match fault.kind:
        case FaultKind.RESET_AFTER_APPLYING:
            return Reset()
        case FaultKind.GATEWAY_TIMEOUT_AFTER_APPLYING:
            return cdn_page(524)
        case FaultKind.EMPTY_BODY:
            return Response(b"", answer.status, headers, media_type=JSON_TYPE)
        case FaultKind.HTML_BODY:
            return HTMLResponse(_page("Please sign in"), answer.status)
        case FaultKind.MALFORMED_BODY:
            return Response(_half(response.body), answer.status, headers, media_type=JSON_TYPE)
        case FaultKind.TRUNCATED_BODY:
            return CutOff(response)
        case FaultKind.HUGE_BODY:
            return Huge(response)
        case FaultKind.DRIPPING_BODY:
            return Dripping(response, fault.wanted.delay, pause)
        case _:
            altered = {**(answer.body or {})}
            _ALTERATIONS[fault.kind](altered)
            return json_response(Answer(answer.status, altered, answer.headers), headers)


def refuse_input(fault: Fault) -> NoReturn:
    """Raise what the fault makes of an input."""
    match fault.kind:
        case FaultKind.INPUT_REFUSED:
            raise _refusal(fault.wanted.code)
        case FaultKind.INPUT_CONFLICT:
            raise errors.conflict()
        case FaultKind.INPUT_THROTTLED:
            raise errors.throttled_input()
        case FaultKind.INPUT_FAILED:
            raise errors.failed_input()
        case FaultKind.INPUT_LOST_RACE:
            raise RaceLost
        case _:
            raise InputIgnored


def cdn_page(status: int) -> Response:
    return HTMLResponse(_page(f"{status}: {_CDN_TITLES.get(status, 'Error')}"), status, {"server": "cloudflare"})


def _answer_at_the_edge(fault: Fault) -> Response:
    wanted = fault.wanted
    match fault.kind:
        case FaultKind.DOWN | FaultKind.RESET:
            return Reset()
        case FaultKind.REDIRECT:
            return Response(b"", wanted.status or 307, {"Location": wanted.location})
        case FaultKind.REQUEST_TIMEOUT:
            return Response(b"", 408)
        case FaultKind.CUSTOM:
            media_type = wanted.content_type if wanted.body else None
            return Response(wanted.body, wanted.status or 500, wanted.headers, media_type)
        case FaultKind.REVOKED:
            raise errors.unauthenticated()
        case FaultKind.EXPIRED:
            raise errors.expired()
        case FaultKind.WRONG_HUBLET:
            raise errors.wrong_hublet()
        case FaultKind.MIGRATING:
            raise errors.migrating(MIGRATION_RETRY_AFTER_SECONDS)
        case _:
            page = cdn_page(wanted.status or _CDN_STATUS.get(fault.kind, 520))
            page.headers.update(_retry_after(fault))
            return page


def _answer_of_the_api(fault: Fault, headers: Mapping[str, str], switches: Switches) -> Response:
    if fault.kind in _BATCH_STATUS:
        return json_response(Answer(200, {"status": _BATCH_STATUS[fault.kind], "results": []}), headers)
    match fault.kind:
        case FaultKind.MISSING_SCOPES:
            raise errors.missing_scopes(fault.wanted.scopes, switches.missing_scopes_in)
        case FaultKind.REFUSED:
            raise _refusal(fault.wanted.code)
        case FaultKind.THROTTLE_DAILY:
            raise errors.daily_limit(headers[CORRELATION_ID])
        case _:
            raise _API_ERRORS[fault.kind]()


def _refusal(code: str) -> HubSpotError:
    message = f"The sandbox refuses this with {code}"
    return errors.validation_error(message, errors=[{"message": message, "code": code}])


def _retry_after(fault: Fault) -> dict[str, str]:
    return {} if fault.wanted.retry_after is None else {"Retry-After": str(fault.wanted.retry_after)}


_API_ERRORS: dict[FaultKind, Callable[[], HubSpotError]] = {
    FaultKind.THROTTLE: errors.ten_secondly_limit,
    FaultKind.THROTTLE_SECONDLY: errors.secondly_limit,
    FaultKind.THROTTLE_UNKNOWN: errors.unknown_limit,
    FaultKind.PAYMENT_REQUIRED: errors.payment_required,
    FaultKind.FORBIDDEN: errors.forbidden,
    FaultKind.NO_SUCH_PATH: lambda: errors.no_such_path("this path"),
    FaultKind.CONFLICT: errors.conflict,
    FaultKind.RECORD_FULL: errors.record_full,
    FaultKind.LOCKED: errors.locked,
    FaultKind.UNREADABLE: lambda: errors.invalid_json("Cannot deserialize value of type `java.lang.String`"),
    FaultKind.WRONG_OBJECT: lambda: errors.unknown_object_type("contact"),
}
_BATCH_STATUS = {
    FaultKind.EMPTY_RESULTS: "COMPLETE",
    FaultKind.CANCELED: "CANCELED",
    FaultKind.PENDING: "PENDING",
}


def _leave_out_one_input(body: JsonObject) -> None:
    body["results"] = _rows(body, "results")[:-1]


def _reverse(body: JsonObject) -> None:
    body["results"] = sorted(_rows(body, "results"), key=lambda row: str(row["id"]), reverse=True)


def _drop_trace_ids(body: JsonObject) -> None:
    body["results"] = [_without(row, "objectWriteTraceId") for row in _rows(body, "results")]


def _drop_names_of_errors(body: JsonObject) -> None:
    if "errors" in body:
        body["errors"] = [_without(row, "context") for row in _rows(body, "errors")]


def _show_another_portal(body: JsonObject) -> None:
    body["portalId"] = int(str(body.get("portalId", 0))) + 1


_ALTERATIONS = {
    FaultKind.PARTIAL_RESULTS: _leave_out_one_input,
    FaultKind.REVERSED_RESULTS: _reverse,
    FaultKind.NO_TRACE_ECHO: _drop_trace_ids,
    FaultKind.UNNAMED_ERRORS: _drop_names_of_errors,
    FaultKind.WRONG_PORTAL: _show_another_portal,
}


def _rows(body: JsonObject, name: str) -> list[JsonObject]:
    return cast("list[JsonObject]", body.get(name, []))


def _without(row: JsonObject, name: str) -> JsonObject:
    return {key: value for key, value in row.items() if key != name}


_CDN_STATUS = {
    FaultKind.SERVER_ERROR: 500,
    FaultKind.BAD_GATEWAY: 502,
    FaultKind.UNAVAILABLE: 503,
    FaultKind.GATEWAY_TIMEOUT: 504,
    FaultKind.BLOCKED: 403,
    FaultKind.TOO_LARGE: 413,
    FaultKind.URI_TOO_LONG: 414,
}
_CDN_TITLES = {
    403: "Sorry, you have been blocked",
    413: "Request entity too large",
    414: "Request-URI too large",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service temporarily unavailable",
    504: "Gateway time-out",
    520: "Web server is returning an unknown error",
    521: "Web server is down",
    522: "Connection timed out",
    523: "Origin is unreachable",
    524: "A timeout occurred",
    525: "SSL handshake failed",
    526: "Invalid SSL certificate",
}


def _page(title: str) -> str:
    return (
        f"<!DOCTYPE html>\n<html><head><title>hubapi.com | {title}</title></head><body><h1>{title}</h1></body></html>"
    )


def _encoded(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _half(body: bytes | memoryview) -> bytes:
    return bytes(body)[: len(body) // 2]
