"""A driver signs up and in by a one-time code; only a new driver is an event."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from app.models import AccessToken, Driver, OtpChallenge
from tests.app.conftest import Hub, at_once, on_sqlite_only


def test_a_new_driver_is_an_event_with_the_address_they_gave(hub, events):
    driver = hub.sign_up(email="New.Driver@Example.com ")
    [(event_type, payload)] = events()
    assert event_type == "driver_signed_up"
    assert payload.pop("created_at").endswith("Z")
    assert payload == {
        "user_id": driver.id,
        "email": "new.driver@example.com",
        "stage": "signed_up",
        "auth_provider": "otp",
    }


def test_a_driver_without_email_signs_up_by_phone(hub, events):
    hub.sign_up(phone="+49 (170) 123-45.67")
    [(_, payload)] = events()
    assert payload["phone"] == "+491701234567"
    assert "email" not in payload


def test_signing_in_again_is_the_same_driver_and_no_event(hub, events):
    driver = hub.sign_up(email="driver@example.com")
    answer = hub.verify(hub.start(email=" DRIVER@example.com"))
    assert (answer.json()["driver_id"], answer.json()["new_driver"]) == (driver.id, False)
    assert len(events()) == 1


def test_a_code_signs_in_once(hub):
    challenge = hub.start(email="driver@example.com")
    assert hub.verify(challenge).status_code == 200
    again = hub.verify(challenge)
    assert again.status_code == 410
    assert "has been used" in again.json()["detail"]


def test_five_wrong_tries_end_a_code(hub, events):
    challenge = hub.start(email="driver@example.com")
    wrong = f"{(int(challenge.code) + 1) % 1_000_000:06d}"
    tries = [hub.verify(challenge, wrong) for _ in range(5)]
    assert [it.status_code for it in tries] == [403] * 5
    assert "4 more tries" in tries[0].json()["detail"]
    assert hub.verify(challenge).status_code == 410
    assert events() == []


def test_wrong_tries_that_race_are_all_counted(hub):
    challenge = hub.start(email="driver@example.com")
    wrong = f"{(int(challenge.code) + 1) % 1_000_000:06d}"
    tries = at_once(10, lambda _: hub.verify(challenge, wrong).status_code)
    assert sorted(tries) == [403] * 5 + [410] * 5


def test_a_code_ends_after_ten_minutes(hub, engine):
    challenge = hub.start(email="driver@example.com")
    _move_back(engine, challenge.challenge_id, timedelta(minutes=10))
    answer = hub.verify(challenge)
    assert answer.status_code == 410
    assert "older than 10 minutes" in answer.json()["detail"]


def test_an_unknown_challenge_is_not_found(hub):
    body = {"challenge_id": "00000000-0000-4000-8000-000000000000", "code": "123456"}
    assert hub.http.post("/v1/auth/otp/verify", json=body).status_code == 404


def test_an_address_gets_five_unused_codes_in_a_quarter_of_an_hour(hub):
    for _ in range(5):
        hub.start(email="driver@example.com")
    refused = hub.http.post("/v1/auth/otp/start", json={"email": "Driver@example.com"})
    assert refused.status_code == 429
    assert 890 <= int(refused.headers["retry-after"]) <= 900
    assert "Use the last one" in refused.json()["detail"]
    hub.start(email="another@example.com")


def test_a_used_code_does_not_count_against_the_address(hub):
    for _ in range(7):
        hub.verify(hub.start(email="driver@example.com"))


def test_codes_are_sent_again_when_the_first_are_a_quarter_of_an_hour_old(hub, engine):
    first = hub.start(email="driver@example.com")
    for _ in range(4):
        hub.start(email="driver@example.com")
    _move_back(engine, first.challenge_id, timedelta(minutes=15))
    hub.start(email="driver@example.com")
    with Session(engine) as db:
        assert db.get(OtpChallenge, first.challenge_id) is None


def test_requests_for_codes_that_race_get_no_more_than_five(hub):
    answers = at_once(10, lambda _: hub.http.post("/v1/auth/otp/start", json={"phone": "+491701234567"}))
    assert sorted(it.status_code for it in answers) == [202] * 5 + [429] * 5


def test_first_sign_ins_of_one_address_that_race_create_one_driver(hub, events):
    challenges = [hub.start(email="driver@example.com") for _ in range(5)]
    answers = at_once(5, lambda number: hub.verify(challenges[number]).json())
    assert len({it["driver_id"] for it in answers}) == 1
    assert sorted(it["new_driver"] for it in answers) == [False] * 4 + [True]
    assert len(events()) == 1


def test_one_code_that_is_raced_signs_in_once(hub, events):
    challenge = hub.start(email="driver@example.com")
    assert sorted(at_once(10, lambda _: hub.verify(challenge).status_code)) == [200] + [410] * 9
    assert len(events()) == 1


@on_sqlite_only
@pytest.mark.parametrize(
    "address",
    [
        {},
        {"phone": "+491701234567", "email": "driver@example.com"},
        {"phone": "0170 1234567"},
        {"phone": "+49"},
        {"phone": "+4917012345678901"},
        {"email": "driver"},
        {"email": "driver@example"},
        {"email": "a@b@example.com"},
        {"email": "dri ver@example.com"},
        {"email": "driver\x00@example.com"},
        {"email": "x" * 250 + "@example.com"},
        {"email": "driver@example.com", "name": "D"},
    ],
)
def test_what_is_no_address_is_refused_and_sends_no_code(hub, address):
    answer = hub.http.post("/v1/auth/otp/start", json=address)
    assert answer.status_code == 422
    assert answer.json()["errors"]
    assert hub.codes == []


def test_neither_codes_nor_tokens_can_be_read_from_the_database(hub: Hub, engine: Engine):
    challenge = hub.start(email="driver@example.com")
    token = hub.verify(challenge).json()["access_token"]
    with Session(engine) as db:
        code_hash = db.scalars(select(OtpChallenge.code_hash)).one()
        token_hash = db.scalars(select(AccessToken.token_hash)).one()
    assert challenge.code not in code_hash
    assert token not in token_hash


def test_a_token_ends_after_ninety_days(hub, engine):
    driver = hub.sign_up(email="driver@example.com")
    with Session(engine) as db, db.begin():
        for token in db.scalars(select(AccessToken)):
            token.expires_at -= timedelta(days=90)
    assert hub.http.get("/v1/wallet", headers=driver.headers).status_code == 401
    again = hub.sign_up(email="driver@example.com")
    assert hub.wallet(again)["driver_id"] == driver.id
    with Session(engine) as db:
        assert len(db.scalars(select(AccessToken)).all()) == 1, "the expired one is deleted"


def test_a_driver_has_a_wallet_from_the_first_moment(hub, engine):
    hub.sign_up()
    with Session(engine) as db:
        assert db.scalars(select(Driver)).one().wallet.balance == 0


def _move_back(engine, challenge_id, by):
    with Session(engine) as db, db.begin():
        challenge = db.get_one(OtpChallenge, challenge_id)
        moved = {"created_at": challenge.created_at - by, "expires_at": challenge.expires_at - by}
        db.execute(update(OtpChallenge).where(OtpChallenge.id == challenge_id).values(moved))
