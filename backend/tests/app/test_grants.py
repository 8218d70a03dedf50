"""A charging session earns Nova once, whoever repeats or races it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.nova import nova_for
from app.wrong_keys import NETWORKS_MAX, WINDOW_SECONDS, WRONG_MAX, WrongKeys
from tests.app.conftest import SERVICE_KEY, at_once, on_sqlite_only, settings_for


@pytest.mark.parametrize(
    ("energy", "nova"),
    [("0.04", 0), ("0.05", 1), ("0.049999", 0), ("0.14", 1), ("0.15", 2), ("0.25", 3), ("7.78", 78), ("100", 1000)],
)
def test_a_kilowatt_hour_is_ten_nova_and_half_a_nova_is_rounded_up(energy, nova):
    assert nova_for(Decimal(energy)) == nova


def test_a_grant_is_an_event_with_the_totals_after_it(hub, events):
    driver = hub.sign_up(phone="+491701234567")
    hub.grant(driver, energy_kwh=1)
    answer = hub.grant(driver, "1366563", energy_kwh=7.78, ended_at="2026-11-24T07:40:02.123456+01:00")
    assert answer.status_code == 201
    assert (answer.json()["amount"], answer.json()["new_balance"]) == (78, 88)
    assert events()[-1] == (
        "nova_earned",
        {
            "user_id": driver.id,
            "phone": "+491701234567",
            "stage": "earning",
            "amount": 78,
            "session_id": "1366563",
            "earned_at": "2026-11-24T06:40:02.123Z",
            "new_balance": 88,
            "lifetime_earned": 88,
            "earned_count": 2,
        },
    )


def test_a_session_is_granted_once_and_answered_alike_ever_after(hub, events):
    driver = hub.sign_up()
    first = hub.grant(driver, "session", energy_kwh="7.780", ended_at="2026-11-24T06:40:02.123456Z")
    hub.grant(driver)
    again = hub.grant(driver, "session", energy_kwh=7.78, ended_at="2026-11-24T07:40:02.123456+01:00")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(events()) == 3


def test_a_session_granted_with_other_content_is_a_conflict(hub, events):
    driver, other = hub.sign_up(), hub.sign_up()
    hub.grant(driver, "session")
    for conflict in (
        hub.grant(other, "session"),
        hub.grant(driver, "session", energy_kwh="7.79"),
        hub.grant(driver, "session", ended_at="2026-11-24T06:40:02.124Z"),
    ):
        assert conflict.status_code == 409
        assert conflict.json()["type"] == "urn:nerava:problem:session-granted"
    assert len(events()) == 3
    assert hub.wallet(other)["balance"] == 0


def test_a_session_that_is_raced_is_granted_once(hub, events):
    driver = hub.sign_up()
    answers = at_once(10, lambda _: hub.grant(driver, "session"))
    assert sorted(it.status_code for it in answers) == [200] * 9 + [201]
    assert len({it.text for it in answers}) == 1
    assert hub.wallet(driver)["lifetime_earned"] == 78
    assert len(events()) == 2


def test_a_session_that_is_raced_for_several_drivers_is_granted_to_one(hub, events):
    drivers = [hub.sign_up() for _ in range(6)]
    answers = at_once(6, lambda number: hub.grant(drivers[number], "session"))
    assert sorted(it.status_code for it in answers) == [201] + [409] * 5
    assert sorted(hub.wallet(driver)["balance"] for driver in drivers) == [0] * 5 + [78]
    assert len(events()) == 7


def test_sessions_of_one_driver_that_race_all_count(hub, events):
    driver = hub.sign_up()
    at_once(10, lambda _: hub.grant(driver, energy_kwh="1"))
    assert hub.wallet(driver)["balance"] == 100
    assert [payload["new_balance"] for _, payload in events()[1:]] == list(range(10, 101, 10))


def test_a_session_too_short_for_one_nova_is_kept_and_is_no_event(hub, events):
    driver = hub.sign_up()
    first = hub.grant(driver, "session", energy_kwh="0.04")
    assert (first.status_code, first.json()["amount"]) == (201, 0)
    assert hub.grant(driver, "session", energy_kwh="0.04").status_code == 200
    wallet = hub.wallet(driver)
    assert (wallet["earned_count"], wallet["stage"]) == (0, "signed_up")
    assert len(events()) == 1


@on_sqlite_only
@pytest.mark.parametrize(
    "fields",
    [
        {"energy_kwh": 0},
        {"energy_kwh": "-1"},
        {"energy_kwh": "NaN"},
        {"energy_kwh": "Infinity"},
        {"energy_kwh": "1e300"},
        {"energy_kwh": "0.0000001"},
        {"energy_kwh": None},
        {"energy_kwh": True},
        {"energy_kwh": "1_0"},
        {"energy_kwh": " 7.78"},
        {"energy_kwh": "٧.٧٨"},
        {"ended_at": "2026-11-24T06:40:02"},
        {"ended_at": "0014-11-18T15:40:26Z"},
        {"ended_at": "0001-01-01T00:00:00+14:00"},
        {"ended_at": "9999-12-31T23:59:59-14:00"},
        {"ended_at": "yesterday"},
        {"ended_at": 1767225600},
        {"ended_at": "1767225600"},
        {"ended_at": "20260101"},
        {"ended_at": True},
        {"driver_id": "1"},
        {"session_id": ""},
        {"session_id": "x" * 256},
        {"session_id": "a\x00b"},
        {"session_id": "a\ud800b"},
        {"amount": 5},
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(hub, events, fields):
    driver = hub.sign_up()
    answer = hub.grant(driver, **fields)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("body")
    assert len(events()) == 1


def test_a_grant_for_an_unknown_driver_is_not_found(hub, events):
    driver = hub.sign_up()
    assert hub.grant(driver, driver_id="00000000-0000-4000-8000-000000000000").status_code == 404
    assert len(events()) == 1


@on_sqlite_only
@pytest.mark.parametrize("key", [None, "", "wrong", "charging-network-keys"])
def test_only_the_charging_network_grants(hub, key):
    answer = hub.http.post("/v1/nova/grants", json={}, headers={} if key is None else {"X-Service-Key": key})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "APIKey"


@on_sqlite_only
def test_a_drivers_token_does_not_grant(hub):
    answer = hub.http.post("/v1/nova/grants", json={}, headers=hub.sign_up().headers)
    assert answer.status_code == 401


@on_sqlite_only
def test_guesses_of_the_service_key_are_logged_and_locked_out_for_a_minute(hub, caplog):
    def grant(key: str) -> int:
        answer = hub.http.post("/v1/nova/grants", json={}, headers={"X-Service-Key": key})
        assert (answer.status_code == 429) == (0 < int(answer.headers.get("retry-after", 0)) <= WINDOW_SECONDS)
        return answer.status_code

    for _ in range(20):
        assert hub.http.post("/v1/nova/grants", json={}).status_code == 401
    answers = at_once(10, lambda number: grant(f"guess-{number}"))
    assert sorted(answers) == [401] * WRONG_MAX + [429] * 5
    assert grant(SERVICE_KEY) == 429
    wrong = [message for message in caplog.messages if message == "A wrong X-Service-Key came from testclient."]
    assert len(wrong) == WRONG_MAX
    assert "guess-" not in caplog.text
    # Another network is none of theirs.
    hub.http._transport.client = ("10.0.0.1", 50000)
    assert grant(SERVICE_KEY) == 422


@on_sqlite_only
def test_charger_with_an_old_key_holds_up_none_that_share_its_address(hub, caplog):
    for key in (SERVICE_KEY, *["an old key"] * 10, SERVICE_KEY):
        answer = hub.http.post("/v1/nova/grants", json={}, headers={"X-Service-Key": key})
        assert answer.status_code == (422 if key == SERVICE_KEY else 401)
    assert caplog.text.count("A wrong X-Service-Key") == WRONG_MAX


def test_lock_of_a_network_ends_and_its_memory_is_bounded():
    now = 0.0
    wrong_keys = WrongKeys(lambda: now)
    for _ in range(WRONG_MAX):
        assert wrong_keys.seconds_locked("2001:db8::1") == 0
        wrong_keys.note_wrong("2001:db8::2")
    assert wrong_keys.seconds_locked("2001:db8::3") == WINDOW_SECONDS
    now += WINDOW_SECONDS
    assert wrong_keys.seconds_locked("2001:db8::1") == 0
    wrong_keys.note_wrong("2001:db8::1")
    assert wrong_keys.seconds_locked("2001:db8::1") == 0
    for number in range(NETWORKS_MAX + 1):
        wrong_keys.note_right(f"client {number}")
    assert len(wrong_keys._networks) == NETWORKS_MAX


def test_without_a_service_key_every_grant_is_refused_and_the_log_says_why(sqlite_url, caplog):
    with TestClient(create_app(settings_for(sqlite_url, charger_service_key=""))) as http:
        for key in ("", SERVICE_KEY):
            answer = http.post("/v1/nova/grants", json={}, headers={"X-Service-Key": key})
            assert answer.status_code == 401
    assert "CHARGER_SERVICE_KEY is empty" in caplog.text
