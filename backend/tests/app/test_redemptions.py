"""Nova is spent once per key and never below zero; the first time is told apart, once."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.app.conftest import at_once, on_sqlite_only


@pytest.fixture
def driver(hub):
    """A driver with 100 Nova."""
    driver = hub.sign_up(email="driver@example.com")
    hub.grant(driver, energy_kwh="10")
    return driver


def test_the_first_redemption_is_two_events_in_this_order(hub, events, driver):
    answer = hub.redeem(driver, 30)
    assert answer.status_code == 201
    body = answer.json()
    assert (body["amount"], body["new_balance"], body["first_redemption"]) == (30, 70, True)
    (redeemed, redeemed_payload), (first, first_payload) = events()[-2:]
    assert (redeemed, first) == ("nova_redeemed", "first_redemption_completed")
    redeemed_at = redeemed_payload.pop("redeemed_at")
    about = {"user_id": driver.id, "email": "driver@example.com", "stage": "redeeming"}
    about |= {"redemption_id": body["redemption_id"], "merchant_id": "corner-bakery", "amount": 30}
    assert redeemed_payload == about | {"new_balance": 70, "lifetime_redeemed": 30, "redeemed_count": 1}
    assert first_payload == about | {"completed_at": redeemed_at}


def test_later_redemptions_are_one_event(hub, events, driver):
    hub.redeem(driver, 30)
    answer = hub.redeem(driver, 20)
    assert answer.json()["first_redemption"] is False
    assert [it for it, _ in events()[-3:]] == ["nova_redeemed", "first_redemption_completed", "nova_redeemed"]
    assert events()[-1][1]["lifetime_redeemed"] == 50


def test_a_repeated_key_is_answered_alike_and_spends_nothing(hub, events, driver):
    first = hub.redeem(driver, 30, "key")
    hub.redeem(driver, 20)
    again = hub.redeem(driver, 30, "key")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert hub.wallet(driver)["balance"] == 50
    assert len(events()) == 5


def test_a_key_used_for_something_else_is_a_conflict(hub, driver):
    hub.redeem(driver, 30, "key")
    for answer in (hub.redeem(driver, 31, "key"), hub.redeem(driver, 30, "key", merchant_id="kiosk")):
        assert answer.status_code == 409
        assert answer.json()["type"] == "urn:nerava:problem:idempotency-key-reused"


def test_a_key_is_the_drivers_own(hub, driver):
    other = hub.sign_up()
    hub.grant(other)
    assert hub.redeem(driver, 1, "key").status_code == 201
    assert hub.redeem(other, 1, "key").status_code == 201


def test_a_balance_that_is_too_small_is_a_conflict_and_no_event(hub, events, driver):
    answer = hub.redeem(driver, 101, "key")
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:nerava:problem:balance-too-small"
    assert "100 Nova" in answer.json()["detail"]
    assert hub.redeem(driver, 10**30).status_code == 409
    assert len(events()) == 2
    assert hub.redeem(driver, 100, "key").status_code == 201, "a refused key is not used up"


def test_redemptions_that_race_never_take_the_balance_below_zero(hub, events, driver):
    answers = at_once(20, lambda _: hub.redeem(driver, 9))
    assert sorted(it.status_code for it in answers) == [201] * 11 + [409] * 9
    assert hub.wallet(driver)["balance"] == 1
    redeemed = [payload["new_balance"] for event_type, payload in events() if event_type == "nova_redeemed"]
    assert redeemed == list(range(91, 0, -9))


def test_of_redemptions_that_race_one_is_the_first(hub, events, driver):
    answers = at_once(10, lambda _: hub.redeem(driver, 1))
    [first] = [it.json() for it in answers if it.json()["first_redemption"]]
    completed = [payload for event_type, payload in events() if event_type == "first_redemption_completed"]
    assert [it["redemption_id"] for it in completed] == [first["redemption_id"]]
    assert first["new_balance"] == 99


def test_a_key_that_is_raced_redeems_once(hub, events, driver):
    answers = at_once(10, lambda _: hub.redeem(driver, 30, "key"))
    assert sorted(it.status_code for it in answers) == [200] * 9 + [201]
    assert len({it.text for it in answers}) == 1
    assert hub.wallet(driver)["balance"] == 70
    assert len(events()) == 4


def test_grants_and_redemptions_that_race_add_up(hub, driver):
    at_once(20, lambda number: hub.redeem(driver, 5) if number % 2 else hub.grant(driver, energy_kwh="1"))
    wallet = hub.wallet(driver)
    assert (wallet["balance"], wallet["lifetime_earned"], wallet["lifetime_redeemed"]) == (150, 200, 50)


def test_the_database_itself_refuses_a_balance_below_zero(hub, engine, driver):
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("UPDATE wallets SET balance = -1, lifetime_redeemed = 101"))


@on_sqlite_only
@pytest.mark.parametrize(
    "body",
    [
        {"merchant_id": "m", "amount": 0},
        {"merchant_id": "m", "amount": -5},
        {"merchant_id": "m", "amount": 1.5},
        {"merchant_id": "m", "amount": "5"},
        {"merchant_id": "m", "amount": True},
        {"merchant_id": "", "amount": 1},
        {"merchant_id": "a\x00b", "amount": 1},
        {"merchant_id": "m"},
    ],
)
def test_a_redemption_that_makes_no_sense_is_refused(hub, events, driver, body):
    headers = driver.headers | {"Idempotency-Key": "key"}
    assert hub.http.post("/v1/nova/redemptions", json=body, headers=headers).status_code == 422
    assert len(events()) == 2


@on_sqlite_only
@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": ""}, {"Idempotency-Key": "k" * 256}])
def test_a_redemption_needs_a_key(hub, driver, key):
    body = {"merchant_id": "m", "amount": 1}
    answer = hub.http.post("/v1/nova/redemptions", json=body, headers=driver.headers | key)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "header.Idempotency-Key"


@on_sqlite_only
def test_a_redemption_needs_its_driver(hub):
    body = {"merchant_id": "m", "amount": 1}
    assert hub.http.post("/v1/nova/redemptions", json=body, headers={"Idempotency-Key": "k"}).status_code == 401
