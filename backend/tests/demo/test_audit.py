"""The audit's comparisons: each way in which both ends can disagree is found and named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from app.models import Driver, NovaGrant, Redemption, Wallet, WalletPass
from demo.audit import EventRow, compare_contacts, compare_counts, compare_events
from demo.ledger import Account, EventName
from demo.report import percentile

DRIVER_ID = UUID("11111111-1111-4111-8111-111111111111")
SECOND = timedelta(seconds=1)
EARNED = EventName("nova_earned", str(DRIVER_ID), "session-1")


def at(minute: int) -> datetime:
    return datetime(2026, 6, 12, 17, minute, 0, 123_000, tzinfo=UTC)


def account(*, redemptions: bool = True, earnings: bool = True) -> Account:
    """A driver who earned 30 Nova, then 0 by a short session, and spent 10."""
    grants = [_grant("session-1", 30, 1), _grant("short", 0, 2)] if earnings else []
    spent = [_redemption("corner-bakery", 3), _redemption("hub-cinema", 4)] if redemptions else []
    return Account(
        driver=Driver(id=DRIVER_ID, email="a@example.com", phone=None, auth_provider="otp", created_at=at(0)),
        wallet=Wallet(
            driver_id=DRIVER_ID,
            balance=20 if redemptions else 30,
            lifetime_earned=30,
            lifetime_redeemed=10 if redemptions else 0,
            earned_count=1,
            redeemed_count=len(spent),
        ),
        passes=[WalletPass(driver_id=DRIVER_ID, pass_type="google", installed_at=at(1))],
        grants=grants,
        redemptions=spent,
    )


def _grant(session_id: str, amount: int, minute: int) -> NovaGrant:
    return NovaGrant(
        session_id=session_id, driver_id=DRIVER_ID, energy_kwh=Decimal(amount) / 10, amount=amount, ended_at=at(minute)
    )


def _redemption(merchant_id: str, minute: int) -> Redemption:
    return Redemption(
        id=UUID(int=minute), driver_id=DRIVER_ID, merchant_id=merchant_id, amount=5, redeemed_at=at(minute)
    )


def test_an_expected_event_with_a_delivered_row_is_delivered() -> None:
    findings = compare_events([EARNED], [EventRow(EARNED, SECOND)])

    assert (findings.expected, findings.delivered, findings.latencies) == (1, 1, (SECOND,))
    assert (findings.failed, findings.lost, findings.surplus) == ((), (), ())


def test_an_expected_event_without_a_row_is_lost() -> None:
    assert compare_events([EARNED], []).lost == (f"{EARNED}: the outbox has no row",)


def test_an_expected_event_whose_row_is_not_delivered_is_lost() -> None:
    findings = compare_events([EARNED], [EventRow(EARNED, None)])

    assert findings.lost == (f"{EARNED}: its row is not delivered",)
    assert findings.delivered == 0


def test_a_failed_row_is_named_with_its_error() -> None:
    findings = compare_events([EARNED], [EventRow(EARNED, None, has_failed=True, error="no such property")])

    assert findings.failed == (f"{EARNED}: no such property",)


def test_a_second_row_of_one_event_is_surplus() -> None:
    findings = compare_events([EARNED], [EventRow(EARNED, SECOND), EventRow(EARNED, SECOND)])

    assert (findings.delivered, findings.surplus) == (1, (str(EARNED),))


def test_a_row_that_no_table_explains_is_surplus() -> None:
    assert compare_events([], [EventRow(EARNED, SECOND)]).surplus == (str(EARNED),)


def test_events_follow_from_the_tables_alone() -> None:
    driver_id = str(DRIVER_ID)

    assert list(account().events()) == [
        EventName("driver_signed_up", driver_id),
        EventName("wallet_pass_installed", driver_id, "google"),
        EventName("nova_earned", driver_id, "session-1"),
        EventName("nova_redeemed", driver_id, str(UUID(int=3))),
        EventName("nova_redeemed", driver_id, str(UUID(int=4))),
        EventName("first_redemption_completed", driver_id, str(UUID(int=3))),
    ]


def test_a_contact_follows_from_the_tables_alone() -> None:
    assert account().contact() == {
        "email": "a@example.com",
        "phone": None,
        "nerava_signed_up_at": "2026-06-12T17:00:00.123Z",
        "nerava_auth_provider": "otp",
        "nerava_stage": "redeeming",
        "nerava_wallet_pass_installed": "true",
        "nerava_wallet_pass_type": "google",
        "nerava_wallet_pass_installed_at": "2026-06-12T17:01:00.123Z",
        "nerava_balance": "20",
        "nerava_lifetime_earned": "30",
        "nerava_lifetime_redeemed": "10",
        "nerava_earned_count": "1",
        "nerava_redeemed_count": "2",
        "nerava_last_earned_at": "2026-06-12T17:01:00.123Z",
        "nerava_last_redeemed_at": "2026-06-12T17:04:00.123Z",
        "nerava_first_redemption_at": "2026-06-12T17:03:00.123Z",
        "nerava_last_merchant_id": "hub-cinema",
    }


def test_what_no_event_has_set_must_be_empty_in_hubspot() -> None:
    contact = account(redemptions=False).contact()

    assert contact["nerava_stage"] == "earning"
    assert [name for name, value in contact.items() if value is None] == [
        "phone",
        "nerava_lifetime_redeemed",
        "nerava_redeemed_count",
        "nerava_last_redeemed_at",
        "nerava_first_redemption_at",
        "nerava_last_merchant_id",
    ]


def test_a_contact_that_says_the_same_does_not_differ() -> None:
    found = {name: value or "" for name, value in account().contact().items()}

    assert list(compare_contacts([account()], {str(DRIVER_ID): found})) == []


def test_each_property_that_differs_is_named_with_both_values() -> None:
    found = account().contact() | {"nerava_balance": "19", "phone": "+15550000001"}

    differences = [str(it) for it in compare_contacts([account()], {str(DRIVER_ID): found})]

    assert differences == [
        f"contact of driver {DRIVER_ID}: phone is '+15550000001', must be None",
        f"contact of driver {DRIVER_ID}: nerava_balance is '19', must be '20'",
    ]


def test_a_driver_without_a_contact_differs() -> None:
    (difference,) = compare_contacts([account()], {})

    assert str(difference) == f"contact of driver {DRIVER_ID}: nerava_user_id is None, must be '{DRIVER_ID}'"


def test_a_wallet_that_its_rows_do_not_add_up_to_is_named() -> None:
    assert list(account().inconsistencies()) == []
    assert next(account(earnings=False, redemptions=False).inconsistencies()) == (
        f"wallet of driver {DRIVER_ID}: balance is 30, its rows make 0"
    )


def test_an_acknowledged_action_that_the_tables_do_not_have_is_named() -> None:
    assert list(compare_counts({"nova_earned": 2}, {"nova_earned": 2})) == []
    assert list(compare_counts({"nova_earned": 2}, {"nova_earned": 1})) == [
        "the drivers' acknowledged actions make 2 × nova_earned, the business tables 1"
    ]


def test_percentiles_are_values_that_occurred() -> None:
    values = [timedelta(seconds=it) for it in range(1, 101)]

    assert (percentile(values, 0.5), percentile(values, 0.99)) == (timedelta(seconds=50), timedelta(seconds=99))
    assert percentile([SECOND], 0.99) == SECOND
    assert percentile([], 0.5) == timedelta(0)
