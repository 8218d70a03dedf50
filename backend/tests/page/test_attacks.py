"""Who should not get in, and what they try."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy import func, select, update
from starlette.routing import Mount, Route

from app.models import OUTBOX
from app.settings import OPERATOR_PAGE
from hubspot_sync.page.door import TOKEN_LENGTH_MIN
from hubspot_sync.page.lockout import ADDRESSES_MAX, FAILURES_FREE, FAILURES_OVERALL_MAX, Lockout
from hubspot_sync.page.rendering import STATIC
from hubspot_sync.page.sessions import SESSION_LENGTH, Seal
from hubspot_sync.page.sign_in import COOKIE
from sqlalchemy_outbox import operations
from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.model import GateState
from tests.page.conftest import TOKEN, fail, serving, settings_for, track

SCRIPT = "<script>alert(1)</script>"
VIEWS = ["/", "/events", "/audit", "/contact?subject=d", "/contact/comparison?subject=d", "/look-up?what=d"]
ACTIONS = [
    "/hold",
    "/release",
    "/try-now",
    "/provision",
    "/retry",
    "/discard",
    "/contact/reveal",
    "/contact/resync",
    "/sign-out",
    "/end-sessions",
]
AN_EVENT = "/events/00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("token", ["", "x" * (TOKEN_LENGTH_MIN - 1)])
def test_page_without_a_token_that_is_hard_to_guess_is_closed_and_says_how_to_open_it(open_page, token):
    client = open_page(operator_token=token)
    for path in (*VIEWS, "/sign-in", "/stream", "/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "set <code>OPERATOR_TOKEN</code>" in answer.text
    assert client.sign_in(token).status_code == 404


def test_view_without_a_session_leads_to_signing_in(client):
    for path in (*VIEWS, AN_EVENT, "/jobs/x", "/nowhere"):
        answer = client.get(path)
        assert answer.status_code == 303, path
        assert urlsplit(answer.headers["location"]).path == f"{OPERATOR_PAGE}/sign-in"
        assert client.get(path, **{"HX-Request": "true"}).headers["hx-redirect"].startswith(f"{OPERATOR_PAGE}/sign-in")
    assert client.get("/stream", Accept="text/event-stream").status_code == 401


def test_actions_are_all_known_here_and_without_a_session_none_is_done(client, engine):
    event_id = fail(engine)
    assert sorted(_action_paths(client)) == sorted([*ACTIONS, "/events/{event_id:uuid}/reveal"])
    for path in (*ACTIONS, f"/events/{event_id}/reveal"):
        assert client.post(path, event=str(event_id), reason="x", subject="driver-1").status_code == 303
    assert operations.read_audit(engine, OUTBOX) == []


def test_guessing_is_locked_out_for_who_guesses_and_nobody_else(open_page):
    guesser = open_page("10.0.0.1")
    for _ in range(FAILURES_FREE):
        assert guesser.sign_in("a guess that is wrong").status_code == 403
    locked = guesser.sign_in(TOKEN)
    assert locked.status_code == 429
    assert 50 <= int(locked.headers["retry-after"]) <= 60
    assert COOKIE not in guesser.http.cookies
    guesser.http._transport.client = ("10.0.0.2", 50000)  # Another client of the same application.
    assert guesser.sign_in(TOKEN).status_code == 303


def test_lock_lasts_longer_with_each_guess_and_is_forgotten_in_time():
    lockout, now = Lockout(), 1000.0
    waits = []
    for _ in range(FAILURES_FREE + 3):
        lockout.note_failure("10.0.0.1", now)
        waits.append(lockout.wait("10.0.0.1", now).total_seconds())
        now += waits[-1]
    assert waits == [0, 0, 0, 0, 60, 120, 240, 480]
    now += 3601
    lockout.note_failure("10.0.0.1", now)
    assert not lockout.wait("10.0.0.1", now)


def test_clients_of_one_ipv6_network_are_one_guesser():
    lockout = Lockout()
    for number in range(FAILURES_FREE):
        lockout.note_failure(f"2001:db8::{number}", 0.0)
    assert lockout.wait("2001:db8::ffff", 0.0)
    assert not lockout.wait("2001:db8:0:1::1", 0.0)


def test_ipv4_clients_of_a_server_that_listens_on_both_are_not_one():
    lockout = Lockout()
    for _ in range(FAILURES_FREE):
        lockout.note_failure("::ffff:10.0.0.1", 0.0)
    assert lockout.wait("10.0.0.1", 0.0)
    assert not lockout.wait("::ffff:10.0.0.2", 0.0)


def test_guessing_from_many_addresses_is_slowed_for_all_and_takes_bounded_memory():
    lockout = Lockout()
    for number in range(FAILURES_OVERALL_MAX):
        lockout.note_failure(f"host-{number}", 0.0)
    assert lockout.wait("10.9.9.9", 0.0).total_seconds() == pytest.approx(36)
    assert not lockout.wait("10.9.9.9", 36.1)
    for number in range(ADDRESSES_MAX + 10):
        lockout.note_failure(f"another-{number}", 0.0)
    assert len(lockout._guessers) == ADDRESSES_MAX


def test_cookie_is_kept_from_scripts_from_other_sites_and_from_other_paths(client):
    cookie = client.sign_in().headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert f"Path={OPERATOR_PAGE}" in cookie
    assert f"Max-Age={int(SESSION_LENGTH.total_seconds())}" in cookie
    assert "Secure" not in cookie
    client.http.base_url = "https://testserver"
    client.origin = {"Origin": "https://testserver"}
    assert "Secure" in client.sign_in().headers["set-cookie"]


def _forgeries() -> Iterator[tuple[str, str]]:
    seal, now = Seal(TOKEN), time.time()
    content, _, mac = seal.issue("Ada", now).partition(".")
    last = "0" if mac[-1] != "0" else "1"
    yield "changed", f"{content[:-2]}AA.{mac}"
    yield "other signature", f"{content}.{mac[:-1]}{last}"
    yield "no signature", content
    yield "empty signature", f"{content}."
    yield "of another token", Seal("another token of the operator").issue("Ada", now)
    yield "expired", seal.issue("Ada", now - SESSION_LENGTH.total_seconds() - 1)
    yield "a form token", f"{content}.{seal._mac('form', content)}"
    yield "long", "A" * 5000
    yield "garbage", "\\303\\244.\\x00"


def test_forged_or_expired_cookie_opens_nothing(client):
    for what, forged in _forgeries():
        assert client.get("/events", Cookie=f"{COOKIE}={forged}").status_code == 303, what


def test_genuine_cookie_opens(client):
    assert client.get("/events", Cookie=f"{COOKIE}={Seal(TOKEN).issue('Ada', time.time())}").status_code == 200


def test_cookie_is_worthless_in_every_process_once_its_operator_has_signed_out(open_page, engine):
    here, there = open_page(), open_page()
    here.sign_in()
    cookie = {"Cookie": f"{COOKIE}={here.http.cookies[COOKIE]}"}
    form_token = here.form_token()
    assert there.get("/events", **cookie).status_code == 200
    assert here.act("/sign-out").status_code == 303
    here.http.cookies.clear()
    for client in (here, there):
        for path in (*VIEWS, AN_EVENT):
            assert client.get(path, **cookie).status_code == 303, path
        assert client.get("/stream", Accept="text/event-stream", **cookie).status_code == 401
        held = client.post("/hold", {**client.origin, **cookie}, form_token=form_token, reason="x")
        assert urlsplit(held.headers["location"]).path == f"{OPERATOR_PAGE}/sign-in"
    assert operations.read_audit(engine, OUTBOX) == []
    assert there.sign_in().status_code == 303
    assert there.get("/events").status_code == 200


def test_others_stay_signed_in_and_what_was_ended_is_forgotten_when_it_is_over(open_page, engine):
    ada, grace = open_page(), open_page()
    ada.sign_in(name="Ada")
    grace.sign_in(name="Grace")
    ada.act("/sign-out")
    assert grace.get("/events").status_code == 200
    ended = OUTBOX.records.ended_sessions
    with engine.begin() as connection:
        connection.execute(update(ended).values(ends_at=DatabaseNow(-1.0)))
    grace.act("/sign-out")
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(ended)).scalar_one() == 1


def test_sign_out_that_the_database_does_not_keep_is_said_to_be_none(operator, engine):
    form_token = operator.form_token()
    OUTBOX.records.ended_sessions.drop(engine)
    refused = operator.post("/sign-out", form_token=form_token)
    assert refused.status_code == 503
    assert "set-cookie" not in refused.headers


ELSEWHERE: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "null"},
    {"Origin": "http://[not-an-address"},
    {},
]


def test_post_from_another_site_is_refused_even_with_the_right_form_token(operator, engine):
    for headers in ELSEWHERE:
        answer = operator.post("/hold", headers, form_token=operator.form_token(), reason="x")
        assert answer.status_code == 403, headers
        assert operator.post("/sign-in", headers, name="Eve", token=TOKEN).status_code == 403
    assert operations.snapshot(engine, OUTBOX).gate.state is GateState.OPEN


def test_refusal_says_what_a_proxy_has_to_pass_on(client):
    refused = client.post("/sign-in", {"Origin": "https://ops.example"}, name="Ada", token=TOKEN)
    assert refused.status_code == 403
    assert "comes from https://ops.example, and it reached the application as testserver." in refused.text
    assert "pass on the Host header" in refused.text
    assert refused.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("base_url", "is_readable"),
    [
        ("http://testserver", True),
        ("http://10.0.0.1", True),
        ("https://testserver", False),
        ("http://127.0.0.1", False),
        ("http://localhost", False),
        ("http://[::1]", False),
    ],
)
def test_who_is_to_send_the_token_unencrypted_is_told_so(client, base_url, is_readable):
    client.http.base_url = base_url
    assert ("this connection is not encrypted" in client.get("/sign-in").text) is is_readable


def test_action_without_the_form_token_of_its_session_is_refused(operator, engine):
    others = Seal(TOKEN).form_token(Seal(TOKEN).read(Seal(TOKEN).issue("Ada", time.time()), time.time()))
    for form_token in ("", others, "\u00e4", operator.form_token()[:-1]):
        for path in (*ACTIONS, f"{AN_EVENT}/reveal"):
            assert operator.post(path, form_token=form_token, reason="x", subject="d").status_code == 403
    assert operations.read_audit(engine, OUTBOX) == []


def test_with_its_form_token_the_same_action_is_done(operator, engine):
    assert operator.act("/hold", reason="Merging contacts").status_code == 303
    gate = operations.snapshot(engine, OUTBOX).gate
    assert (gate.state, gate.held_by, gate.reason) == (GateState.HELD, "page:Ada", "Merging contacts")
    assert operator.act("/release").status_code == 303
    assert operations.snapshot(engine, OUTBOX).gate.state is GateState.OPEN


def test_script_in_an_event_is_shown_as_text(operator, engine):
    payload = {"user_id": SCRIPT, "email": SCRIPT, "note": f"\"'>{SCRIPT}"}
    [event_id, unknown] = [*track(engine, "driver_signed_up", payload), *track(engine, SCRIPT, payload)]
    for path in ("/", "/events", f"/events/{event_id}", f"/events/{unknown}", f"/contact?subject={SCRIPT}"):
        text = operator.get(path).text
        assert SCRIPT not in text
        # A reason has its numbers taken out.
        assert "&lt;script&gt;alert(" in text
    assert SCRIPT not in operator.get(f"/retry?event={unknown}").text


def test_script_in_names_queries_and_reasons_is_shown_as_text(client, engine):
    client.sign_in(name=SCRIPT)
    client.act("/hold", reason=SCRIPT)
    fail(engine, user_id=SCRIPT)
    client.act("/contact/reveal", subject=SCRIPT)
    for path in ("/", "/audit", f"/events?subject={SCRIPT}", f"/events?reason={SCRIPT}", f"/retry?reason={SCRIPT}"):
        assert SCRIPT not in client.get(path).text
    wrong = client.post("/sign-in", name=SCRIPT, token="wrong", wanted=SCRIPT)
    assert SCRIPT not in wrong.text


TRICKS = [
    "/static/../application.py",
    "/static/%2e%2e/application.py",
    "/static/..%2fapplication.py",
    "/static/%5c..%5capplication.py",
    "/static//etc/passwd",
    "/static/vendor",
    "/static/%00",
]


def test_static_files_lead_nowhere_else(client):
    for path in TRICKS:
        answer = client.get(path)
        assert answer.status_code in (303, 404), path
        assert answer.headers["cache-control"] == "no-store"


PLACES = [
    "//evil.example",
    "https://evil.example",
    "/\\evil.example",
    "/..//evil.example",
    "javascript:x",
    "/a\r\nSet-Cookie: a=b",
]


def test_signing_in_leads_to_no_other_place_than_the_page(client):
    for wanted in PLACES:
        assert client.sign_in(wanted=wanted).headers["location"] == f"{OPERATOR_PAGE}/", wanted


def test_signing_in_leads_back_to_what_was_wanted(client):
    wanted = client.get("/events?state=failed&before=7")
    [address] = re.findall(r"wanted=(\S+)", wanted.headers["location"])
    assert address == "%2Fevents%3Fstate%3Dfailed%26before%3D7"
    assert client.sign_in(wanted="/events?state=failed&before=7").headers["location"] == (
        f"{OPERATOR_PAGE}/events?state=failed&before=7"
    )


def test_body_of_ten_megabytes_is_refused_before_it_is_read(database_url):
    with serving(settings_for(database_url)) as address:
        url = urlsplit(address)
        for size in ("Content-Length: 10000000", "Transfer-Encoding: chunked"):
            with closing(socket.create_connection((url.hostname, url.port), timeout=5)) as connection:
                head = f"POST {url.path}/sign-in HTTP/1.1\r\nHost: {url.netloc}\r\nOrigin: http://{url.netloc}\r\n{size}\r\n\r\n"
                connection.sendall(head.encode())
                if "chunked" in size:
                    connection.sendall(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
                answer = connection.recv(65536).decode()
                assert answer.startswith("HTTP/1.1 413 "), answer[:200]
                assert "connection: close" in answer.lower()


def test_every_answer_forbids_to_keep_frame_and_script_it(operator):
    for path in ("/sign-in", "/events", AN_EVENT, "/nowhere", "/events?before=x", "/events?state=x", "/retry"):
        headers = operator.get(path).headers
        policy = dict(it.partition(" ")[::2] for it in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"


def test_templates_have_neither_inline_script_nor_inline_style():
    for template in (STATIC.parent / "templates").glob("*.html"):
        text = template.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|hx-on|hx-vals", text), template.name
        assert re.findall(r"<script(?! src=)", text) == [], template.name
        assert "| safe" not in text, template.name


def test_only_static_files_are_kept_by_browsers(operator):
    page = operator.get("/")
    [style] = re.findall(r'href="(\S+page\.css\S+)"', page.text)
    assert "immutable" in operator.http.get(style).headers["cache-control"]


def test_link_of_another_site_comes_again_from_the_page_with_its_cookie(client):
    answer = client.get("/events", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in answer.text


@pytest.mark.parametrize("last_id", ["\u00b2", "\u0661", "1e999", "nan", "-1", "9" * 400, "1.2.3", "", "1" * 12 + ".5"])
def test_stream_goes_on_whatever_the_browser_says_it_had_last(database_url, last_id):
    with serving(settings_for(database_url)) as address:
        cookie = f"{COOKIE}={Seal(TOKEN).issue('Ada', time.time())}".encode()
        headers = {"Cookie": cookie, "Last-Event-ID": last_id.encode("utf-8" if last_id == "\u0661" else "latin-1")}
        with httpx2.stream("GET", f"{address}/stream", headers=headers, timeout=10) as answer:
            assert answer.status_code == 200
            assert next(answer.iter_lines()) == "retry: 1000"


def test_open_stream_ends_when_its_operator_signs_out_in_another_process(database_url, open_page):
    there = open_page()
    there.sign_in()
    with serving(settings_for(database_url)) as address:
        cookie = f"{COOKIE}={there.http.cookies[COOKIE]}"
        with httpx2.stream("GET", f"{address}/stream", headers={"Cookie": cookie}, timeout=10) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "retry: 1000"
            assert there.act("/sign-out").status_code == 303
            assert "event: over" in lines


def _action_paths(client) -> Iterator[str]:
    [page] = [it.app for it in client.http.app.routes if isinstance(it, Mount) and it.path == OPERATOR_PAGE]
    [signed_in] = [it for it in page._app._app.routes if isinstance(it, Mount) and it.path == ""]
    return (it.path for it in signed_in.routes if isinstance(it, Route) and it.methods == {"POST"})
