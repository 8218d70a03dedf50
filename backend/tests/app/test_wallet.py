"""Passes are recorded once, and the wallet shows totals and the furthest stage."""

from __future__ import annotations

import pytest

from tests.app.conftest import at_once, on_sqlite_only


def test_installing_a_pass_is_an_event(hub, events):
    driver = hub.sign_up(email="driver@example.com")
    answer = hub.install_pass(driver, "google")
    assert answer.status_code == 201
    event_type, payload = events()[-1]
    assert event_type == "wallet_pass_installed"
    assert payload.pop("installed_at").endswith("Z")
    assert payload == {
        "user_id": driver.id,
        "email": "driver@example.com",
        "stage": "pass_installed",
        "pass_type": "google",
    }


def test_installing_the_same_pass_again_changes_nothing(hub, events):
    driver = hub.sign_up()
    first = hub.install_pass(driver)
    again = hub.install_pass(driver)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(events()) == 2


def test_the_other_pass_is_another_event(hub, events):
    driver = hub.sign_up()
    hub.install_pass(driver, "apple")
    hub.install_pass(driver, "google")
    assert [it["pass_type"] for it in hub.wallet(driver)["passes"]] == ["apple", "google"]
    assert len(events()) == 3


def test_one_pass_that_is_raced_is_installed_once(hub, events):
    driver = hub.sign_up()
    answers = at_once(10, lambda _: hub.install_pass(driver))
    assert sorted(it.status_code for it in answers) == [200] * 9 + [201]
    assert len({it.json()["pass_id"] for it in answers}) == 1
    assert len(events()) == 2


@on_sqlite_only
def test_an_unknown_pass_type_is_refused(hub):
    assert hub.install_pass(hub.sign_up(), "paper").status_code == 422


def test_the_wallet_shows_every_total(hub):
    driver = hub.sign_up()
    hub.grant(driver, energy_kwh="5")
    hub.grant(driver, energy_kwh="2.5")
    hub.redeem(driver, 30)
    wallet = hub.wallet(driver)
    assert wallet == {
        "driver_id": driver.id,
        "balance": 45,
        "lifetime_earned": 75,
        "lifetime_redeemed": 30,
        "earned_count": 2,
        "redeemed_count": 1,
        "stage": "redeeming",
        "passes": [],
    }


def test_the_stage_never_goes_back(hub, events):
    driver = hub.sign_up()
    hub.grant(driver)
    hub.redeem(driver, 1)
    hub.grant(driver)
    hub.install_pass(driver)
    assert [payload["stage"] for _, payload in events()] == [
        "signed_up",
        "earning",
        *("redeeming", "redeeming"),  # nova_redeemed and first_redemption_completed
        "redeeming",
        "redeeming",
    ]


@on_sqlite_only
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nobody"}, {"Authorization": "Basic bm9ib2R5"}])
def test_a_wallet_is_shown_to_its_driver_only(hub, headers):
    for answer in (
        hub.http.get("/v1/wallet", headers=headers),
        hub.http.post("/v1/wallet/passes", json={"pass_type": "apple"}, headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
