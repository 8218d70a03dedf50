"""A stranger who asks for codes uses up their own, and keeps nobody else from signing in."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.models import OtpChallenge
from app.otp import (
    RESEND_WINDOW,
    UNUSED_CODES_MAX,
    UNUSED_CODES_OF_ADDRESS_MAX,
    UNUSED_CODES_OF_CLIENT_MAX,
)

VICTIM = {"email": "victim@example.com"}


def from_client(hub, client: str):
    hub.http._transport.client = (client, 50000)
    return hub


def ask(hub, client: str, **address: str) -> int:
    answer = from_client(hub, client).http.post("/v1/auth/otp/start", json=address)
    if answer.status_code == 429:
        assert 1 <= int(answer.headers["retry-after"]) <= RESEND_WINDOW.total_seconds()
        assert answer.json()["type"].endswith("too-many-codes")
    return answer.status_code


def test_stranger_locks_no_address_but_themselves_out(hub):
    asked = [ask(hub, "10.0.0.1", **VICTIM) for _ in range(UNUSED_CODES_MAX + 3)]
    assert asked == [202] * UNUSED_CODES_MAX + [429] * 3
    from_client(hub, "10.0.0.2").sign_up(**VICTIM)


def test_forwarded_header_of_a_stranger_is_not_believed(hub):
    from_client(hub, "10.0.0.1")
    headers = [{"X-Forwarded-For": f"10.9.9.{n}", "Forwarded": f"for=10.9.9.{n}"} for n in range(UNUSED_CODES_MAX + 1)]
    asked = [hub.http.post("/v1/auth/otp/start", json=VICTIM, headers=it).status_code for it in headers]
    assert asked == [202] * UNUSED_CODES_MAX + [429]


def test_client_is_bounded_over_all_addresses_and_others_are_not(hub):
    asked = [ask(hub, "10.0.0.1", phone=f"+491701234{n:03d}") for n in range(UNUSED_CODES_OF_CLIENT_MAX + 1)]
    assert asked == [202] * UNUSED_CODES_OF_CLIENT_MAX + [429]
    assert ask(hub, "10.0.0.2", phone="+491701234999") == 202


def test_network_of_one_ipv6_client_is_one_client(hub):
    asked = [ask(hub, f"2001:db8::{n}", **VICTIM) for n in range(UNUSED_CODES_MAX + 1)]
    assert asked == [202] * UNUSED_CODES_MAX + [429]
    assert ask(hub, "2001:db8:0:1::1", **VICTIM) == 202


def test_drivers_behind_one_router_use_their_codes_and_are_not_bounded(hub):
    from_client(hub, "10.0.0.1")
    for number in range(UNUSED_CODES_OF_CLIENT_MAX + 5):
        hub.verify(hub.start(phone=f"+491701234{number:03d}"))


def test_many_clients_together_get_so_many_codes_for_one_address(hub):
    asked = [ask(hub, f"10.0.{n}.1", **VICTIM) for n in range(UNUSED_CODES_OF_ADDRESS_MAX + 2)]
    assert asked == [202] * UNUSED_CODES_OF_ADDRESS_MAX + [429] * 2


def test_bounds_end_with_the_window_and_old_codes_are_deleted(hub, engine):
    for number in range(UNUSED_CODES_OF_CLIENT_MAX):
        ask(hub, "10.0.0.1", phone=f"+491701234{number:03d}")
    with Session(engine) as db, db.begin():
        first = db.scalars(select(OtpChallenge.created_at).order_by(OtpChallenge.created_at)).first()
        db.execute(update(OtpChallenge).values(created_at=first - RESEND_WINDOW))
    assert ask(hub, "10.0.0.1", **VICTIM) == 202
    with Session(engine) as db:
        assert [it.address for it in db.scalars(select(OtpChallenge))] == [VICTIM["email"]]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_client_that_the_server_does_not_know_is_bounded_for_each_address(hub):
    hub.http._transport.client = None
    asked = [hub.http.post("/v1/auth/otp/start", json=VICTIM).status_code for _ in range(UNUSED_CODES_MAX + 1)]
    assert asked == [202] * UNUSED_CODES_MAX + [429]
    assert hub.http.post("/v1/auth/otp/start", json={"email": "a@example.com"}).status_code == 202
