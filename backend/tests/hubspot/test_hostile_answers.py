"""The status decides first, by itself: whatever headers and body come with it, nothing raises and nobody is charged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from hubspot_sync.answer import Answer
from hubspot_sync.client import ANSWER_BYTES_MAX, REFUSAL_BYTES_MAX
from hubspot_sync.exchange import HEAD_BYTES_MAX
from sqlalchemy_outbox.gate.row import GateStatus
from sqlalchemy_outbox.model import GateState
from tests.conftest import url_of_kind
from tests.hubspot.conftest import PORTAL_ID, settings_for
from tests.hubspot.peer import (
    ACCOUNT,
    KEPT_ALIVE,
    Both,
    Peer,
    Request,
    both_ends,
    http,
    peer_in_hubspots_place,
    written,
)

DRIVERS = 3
HELD, THROTTLED, OPEN = GateState.HELD, GateState.THROTTLED, GateState.OPEN


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    return url_of_kind(request, sqlite="migrated_sqlite_url", postgresql="migrated_postgres_url")


on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peer_in_hubspots_place() as peer:
        yield peer


@pytest.fixture
def hubspot(engine: Engine, peer: Peer) -> Both:
    return both_ends(engine, peer)


def gate_after(hubspot: Both, answer: bytes, caplog: pytest.LogCaptureFixture) -> GateStatus:
    """Deliver several drivers' events to a peer that always says this; nobody may be charged, and nothing raise."""
    events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(DRIVERS)]
    hubspot.peer.answer = lambda _: answer
    hubspot.deliver()
    assert [(hubspot.row(event).attempt_count, hubspot.is_delivered(event)) for event in events] == [(0, False)] * 3
    assert [line.getMessage() for line in caplog.records if line.exc_info or line.levelno > logging.WARNING] == []
    return hubspot.gate()


DEEP = b'{"a":' * 700 + b"1" + b"}" * 700
UNSTORABLE = {"message": "a\ud800b\0c", "category": "X\udfff\0", "correlationId": "\ud800"}
BODIES = {
    "nothing": b"",
    "nested deep": DEEP,
    "errors nested deep": b'{"errors":[' * 300 + b"]}" * 300,
    "nested deeper than can be parsed": b"[" * 100_000,
    "half a surrogate pair and a NUL": json.dumps(UNSTORABLE).encode(),
    "20,000 errors": json.dumps({"errors": [{"code": "A"}] * 20_000}).encode(),
    "too long": b'{"message": "' + b"a" * REFUSAL_BYTES_MAX + b'"}',
    "a number of 5,000 digits": b'{"message": ' + b"9" * 5000 + b"}",
    "not UTF-8": b'{"message": "\xff\xfe"}',
    "a list": b"[1, 2]",
    "fields of odd types": b'{"message": 5, "category": [], "errors": {"a": 1}, "context": "x", "policyName": null}',
    "a page": b"<html>",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(("status", "state", "says"), [(401, HELD, "401"), (429, THROTTLED, "429"), (302, HELD, "302")])
@on_sqlite
def test_status_decides_whatever_the_body_is(
    hubspot: Both, body: bytes, status: int, state: GateState, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_after(hubspot, http(status, body, {"Content-Type": "application/json"}), caplog)
    assert (gate.state, says in (gate.reason or "")) == (state, True)
    assert not (gate.reason or "").startswith("outage")
    assert len(hubspot.peer.upserts) == 1


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@on_sqlite
def test_server_error_is_an_outage_whatever_the_body_is(
    hubspot: Both, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_after(hubspot, http(503, body), caplog)
    assert (gate.reason or "").startswith("outage: HubSpot answered 503")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: nine\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"Content-Length: 100\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n",
        b"no header\r\n",
        b"X: \xff\xfe\r\nContent-Length: 0\r\n",
        b"X: \0\r\n",
        b"X: " + b"a" * HEAD_BYTES_MAX * 2 + b"\r\n",
        b"a: b\r\n" * HEAD_BYTES_MAX,
        b"Content-Type: application/json; charset=\xff\r\nContent-Length: 0\r\n",
        b"Content-Encoding: br, gzip, nothing\r\nContent-Length: 0\r\n",
        b"Set-Cookie: a=b; expires=\xff; max-age=nine; domain=[\r\nContent-Length: 0\r\n",
        b"Upgrade: nothing\r\nConnection: upgrade\r\nContent-Length: 0\r\n",
        b"x-hubspot-ratelimit-max: nan\r\nx-hubspot-ratelimit-daily: 1e999\r\nContent-Length: 0\r\n",
        b"x-hubspot-correlation-id: \xe2\x82\xac a\r\nContent-Length: 0\r\n",
    ],
    ids=lambda headers: headers[:40].decode("latin-1").strip().replace("\0", "NUL"),
)
@pytest.mark.parametrize(("status", "state"), [(401, HELD), (429, THROTTLED), (302, HELD)])
@on_sqlite
def test_status_survives_headers_that_no_library_reads(
    hubspot: Both, headers: bytes, status: int, state: GateState, caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_after(hubspot, f"HTTP/1.1 {status} Oh\r\n".encode() + headers + b"\r\n", caplog)
    assert gate.state is state
    assert not (gate.reason or "").startswith("outage")


@pytest.mark.parametrize(
    "location",
    ["http://[", "http://[::1", "//a:b:c", "http://a:999999/", "http://\u2100.example/", "http:// /", "%", "\x01", ""],
)
@on_sqlite
def test_redirect_is_a_hold_wherever_it_leads(hubspot: Both, location: str, caplog: pytest.LogCaptureFixture) -> None:
    line = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location.encode() + b"\r\n\r\n"
    gate = gate_after(hubspot, line, caplog)
    assert gate.state is HELD
    assert "a redirect to" in (gate.reason or "")


@pytest.mark.parametrize(
    "text",
    [
        *("-inf", "inf", "nan", "-1e300", "1e300", "-5", "+5", "0x10", "1_0", "\u0665", "5 s", "", "5, 6"),
        *("Mon, 99 Foo 2026", "Thu, 01 Jan 1970 00:00:00 -9999999999", "Thu, 01 Jan 9999999 00:00:00 GMT"),
    ],
)
@on_sqlite
def test_retry_after_that_says_nothing_waits_as_long_as_none(
    hubspot: Both, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = b"HTTP/1.1 429 Oh\r\nContent-Length: 0\r\nRetry-After: " + text.encode() + b"\r\n\r\n"
    gate = gate_after(hubspot, answer, caplog)
    assert gate.state is THROTTLED
    assert gate.wait_seconds <= 2


@pytest.mark.parametrize("day", ["23 Nov 2026", "31 Dec 1999", "01 Jan 8000"])
@pytest.mark.parametrize(
    ("headers", "body", "minutes"),
    [
        ({"Retry-After": "Mon, {day} 18:07:00 GMT"}, b"", 7),
        ({}, {"policyName": "DAILY", "message": "no"}, 6 * 60),
        # Nobody can say more of these than that the wait is bounded.
        ({"Retry-After": "Mon, {day} 18:07:00 GMT", "Date": "Mon, 31 Dec 9999 23:59:59 GMT"}, b"", None),
        ({"Date": "Mon, 31 Dec 9999 23:59:59 GMT"}, {"policyName": "DAILY", "message": "no"}, None),
        ({"Date": "Mon, 01 Jan 0001 00:00:00 GMT"}, {"policyName": "DAILY", "message": "no"}, None),
    ],
)
@on_sqlite
def test_throttle_until_a_time_of_day_is_as_long_as_hubspots_own_clock_says(
    hubspot: Both, headers: dict[str, str], body: object, minutes: int | None, day: str
) -> None:
    """So that a worker whose clock is wrong waits no longer than another."""
    own = {name: text.format(day=day) for name, text in ({"Date": "Mon, {day} 18:00:00 GMT"} | headers).items()}
    hubspot.peer.answer = lambda _: http(429, body, own)
    hubspot.sign_up("driver-1")
    hubspot.deliver()
    gate = hubspot.gate()
    assert gate.state is THROTTLED
    if minutes is not None:
        assert abs(gate.wait_seconds - minutes * 60) < 5
    assert gate.wait_seconds < 26 * 3600


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("7.25", 7.25),
        ("0", 1),
        ("9" * 10_000, 86_400),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("Friday, 31-Dec-66 23:59:59 GMT", 86_400),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_bounded(text: str, seconds: float) -> None:
    assert Answer(429, {"retry-after": text}, None).retry_after() == timedelta(seconds=seconds)


@pytest.mark.parametrize("status", [401, 429, 302, 503])
def test_words_that_no_database_stores_are_shown_all_the_same(
    hubspot: Both, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """On PostgreSQL such a NUL kept the gate from being written, and the dead token in use."""
    gate = gate_after(hubspot, http(status, UNSTORABLE), caplog)
    assert r"X\udfff\x00: a\ud800b\x00c" in (gate.reason or "")


@pytest.mark.parametrize(
    "error", [UNSTORABLE, {"message": "\ud800", "category": "VALIDATION_ERROR"}, {"message": "\0", "code": "\ud800"}]
)
def test_errors_of_one_input_may_hold_any_text(hubspot: Both, error: dict[str, str]) -> None:
    events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(DRIVERS)]

    def answer(request: object) -> bytes:
        *others, last = hubspot.peer.upserts[-1].inputs
        named = error | {"context": {"id": [last["id"]], "propertyName": ["\ud800\0"]}}
        return http(207, written(others) | {"errors": [named]})

    hubspot.peer.answer = answer
    hubspot.deliver()
    assert [hubspot.is_delivered(event) for event in events] == [True, True, False]
    assert hubspot.row(events[2]).attempt_count in (1, 3)
    assert hubspot.gate().state is OPEN


@pytest.mark.parametrize("portal_id", ["12\0", "\ud800"])
def test_setting_that_no_database_stores_is_told_in_the_gates_reason(hubspot: Both, portal_id: str) -> None:
    hubspot.settings = hubspot.settings.model_copy(update={"hubspot_portal_id": portal_id})
    event = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    assert hubspot.gate().state is HELD
    assert "HUBSPOT_PORTAL_ID says" in (hubspot.gate().reason or "")
    assert hubspot.row(event).attempt_count == 0


@pytest.mark.parametrize(
    "details",
    [
        *({"portalId": odd} for odd in (None, True, [], {}, 1.5, -1, 10**400, "\u0661", "1\0", "\ud800", "")),
        [],
        "text",
    ],
    ids=lambda details: ascii(details)[:40],
)
@on_sqlite
def test_account_details_of_any_type_name_no_portal_and_charge_nobody(hubspot: Both, details: object) -> None:
    hubspot.peer.account = lambda _: http(200, details)
    event = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    assert (hubspot.row(event).attempt_count, hubspot.is_delivered(event)) == (0, False)
    assert hubspot.peer.upserts == []


@pytest.mark.parametrize(
    "odd",
    [
        *(
            {"timeZone": odd}
            for odd in (None, 5, "\0", "\ud800", "../../etc/passwd", "America", "a" * 5000, "/", "a//b")
        ),
        {"accountType": {}},
        {"accountType": "\ud800", "portalId": PORTAL_ID},
    ],
    ids=lambda odd: ascii(odd)[:40],
)
@on_sqlite
def test_account_is_known_by_its_portal_whatever_else_is_said_of_it(hubspot: Both, odd: dict[str, object]) -> None:
    hubspot.peer.account = lambda _: http(200, ACCOUNT | odd)
    event = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.deliver()
    assert hubspot.is_delivered(event)


@pytest.mark.parametrize(
    ("content_type", "body", "state"),
    [
        ("application/json", b"{", HELD),
        ("application/json", b"", HELD),
        ("application/json", b"<html>", HELD),
        ("application/json", b'{"a":' * 5000, HELD),
        ("text/html", b'{"message": ', HELD),
        ("", b" [", HELD),
        ("", b"", HELD),
        ("application/json", b'{"message": "' + b"a" * REFUSAL_BYTES_MAX, HELD),
        ("text/html", b"<html>blocked", THROTTLED),
        ("text/html", b"", THROTTLED),
        ("text/plain", b"error code: 1020", THROTTLED),
        ("", b"<html>", THROTTLED),
        ("text/html; charset=x", b"a" * 2 * REFUSAL_BYTES_MAX, THROTTLED),
    ],
)
@on_sqlite
def test_403_holds_unless_it_is_a_page_of_somebody_in_between(
    hubspot: Both, content_type: str, body: bytes, state: GateState, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert gate_after(hubspot, http(403, body, headers), caplog).state is state


@on_sqlite
def test_success_that_is_too_long_goes_again_in_halves_and_is_no_outage(hubspot: Both) -> None:
    events = [hubspot.sign_up(f"driver-{n}", email=f"driver-{n}@example.com") for n in range(8)]

    def answer(_: object) -> bytes:
        inputs = hubspot.peer.upserts[-1].inputs
        padding = {"padding": "a" * (ANSWER_BYTES_MAX // 3 * len(inputs))}
        return http(200, written(inputs) | padding)

    hubspot.peer.answer = answer
    hubspot.deliver()
    assert [len(request.inputs) for request in hubspot.peer.upserts] == [8, 4, 2, 2, 4, 2, 2]
    assert all(hubspot.is_delivered(event) and hubspot.row(event).attempt_count == 0 for event in events)
    [(kept, _), *_] = hubspot.deliveries()
    assert (kept.outcome, kept.error) == ("not settled by the answer", "the answer is too long to be read")


@pytest.mark.parametrize(
    "padding",
    [{"padding": "a" * ANSWER_BYTES_MAX}, {"errors": [{}] * 5000}, {"results": [{"id": n} for n in range(5000)]}],
    ids=["bytes", "errors", "results"],
)
@on_sqlite
def test_success_that_is_too_long_for_one_input_alone_charges_it_a_retry(
    hubspot: Both, padding: dict[str, object]
) -> None:
    event = hubspot.sign_up("driver-1", email="ada@example.com")
    hubspot.peer.answer = lambda request: http(200, written(request.inputs) | padding)
    hubspot.deliver()
    row = hubspot.row(event)
    assert (row.attempt_count, row.last_error) == (
        1,
        "HubSpot's answer about this input alone is too long to be read",
    )
    assert hubspot.gate().state is OPEN


@pytest.mark.parametrize(
    "cut", ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"]
)
@on_sqlite
def test_success_that_breaks_off_is_no_answer(hubspot: Both, cut: str, caplog: pytest.LogCaptureFixture) -> None:
    assert (gate_after(hubspot, cut.encode(), caplog).reason or "").startswith("outage")


@on_sqlite
def test_answer_that_came_before_its_request_is_none(hubspot: Both) -> None:
    """Whoever spoke out of turn says nothing of what is asked next over the same connection."""
    odd = http(401)

    def answer(request: Request) -> bytes:
        said = http(200, written(request.inputs)).replace(b"Connection: close", KEPT_ALIVE)
        return said + odd if len(hubspot.peer.upserts) == 1 else said

    hubspot.peer.answer = answer
    hubspot.settings = settings_for(hubspot.peer, hubspot_batch_size=1, hubspot_concurrency=1)
    events = [hubspot.sign_up(f"driver-{n}") for n in range(3)]
    hubspot.deliver()
    assert all(hubspot.is_delivered(event) for event in events)
    assert hubspot.gate().state is OPEN


@on_sqlite
def test_interim_answer_is_no_answer_and_the_final_one_counts(hubspot: Both, caplog: pytest.LogCaptureFixture) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
    assert gate_after(hubspot, early * 3 + b"HTTP/1.1 401 Oh\r\nContent-Length: x\r\n\r\n", caplog).state is HELD
