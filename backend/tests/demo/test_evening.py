"""The evening is the same every time, and large enough to prove something."""

from __future__ import annotations

from collections import Counter

from demo.evening import write_evening
from demo.script import Charge, Redeem


def test_the_same_seed_writes_the_same_evening() -> None:
    assert write_evening(seed=7) == write_evening(seed=7)
    assert write_evening(seed=7) != write_evening(seed=8)


def test_an_evening_has_300_drivers_and_3000_events_of_all_five_kinds() -> None:
    evening = write_evening()

    assert evening.driver_count >= 300
    assert evening.event_types().total() >= 3000
    assert set(evening.event_types()) == {
        "driver_signed_up",
        "wallet_pass_installed",
        "nova_earned",
        "nova_redeemed",
        "first_redemption_completed",
    }


def test_a_third_of_the_drivers_has_no_email() -> None:
    channels = Counter(part.driver.channel for part in write_evening().parts)

    assert channels["phone"] * 3 == channels.total()


def test_nobody_redeems_more_than_they_have_except_to_be_refused() -> None:
    for part in write_evening().parts:
        balance = 0
        for action in part.actions:
            if isinstance(action, Charge) and not action.is_repeat:
                balance += action.nova
            if isinstance(action, Redeem):
                assert (action.amount > balance) is action.exceeds_balance
                balance -= 0 if action.exceeds_balance else action.amount


def test_some_sessions_are_reported_twice_and_some_redemptions_refused() -> None:
    actions = [action for part in write_evening().parts for action in part.actions]

    assert any(isinstance(it, Charge) and it.is_repeat for it in actions)
    assert any(isinstance(it, Redeem) and it.exceeds_balance for it in actions)
