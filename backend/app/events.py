"""Nerava's five lifecycle events, and what each sets on the driver's contact in HubSpot."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from app.wallet import PassType, Stage
from hubspot_sync import (
    EMAIL,
    Catalog,
    ContactProperty,
    EmailAddress,
    Instant,
    LifecycleEvent,
    PropertyGroup,
    PropertyType,
    Reference,
    WholeNumber,
)

AuthProvider = Literal["otp", "email", "google", "apple", "local", "partner"]
# Whole Nova; HubSpot's numbers are exact up to 2^53.
Nova = Annotated[WholeNumber, Field(ge=0, le=2**53)]
Count = Annotated[WholeNumber, Field(ge=0, le=2**53)]

STRING, NUMBER, DATETIME = PropertyType.STRING, PropertyType.NUMBER, PropertyType.DATETIME
BOOL, ENUMERATION = PropertyType.BOOL, PropertyType.ENUMERATION

USER_ID = ContactProperty("nerava_user_id", "Nerava driver id", STRING, is_unique=True)
PHONE = ContactProperty("phone", "Phone Number", STRING, is_standard=True, is_personal=True)
STAGE = ContactProperty("nerava_stage", "Nerava stage", ENUMERATION, options=tuple(Stage))
SIGNED_UP_AT = ContactProperty("nerava_signed_up_at", "Nerava signed up at", DATETIME)
AUTH_PROVIDER = ContactProperty(
    "nerava_auth_provider", "Nerava sign-up method", ENUMERATION, options=get_args(AuthProvider)
)
PASS_INSTALLED = ContactProperty("nerava_wallet_pass_installed", "Nerava wallet pass installed", BOOL)
PASS_TYPE = ContactProperty("nerava_wallet_pass_type", "Nerava wallet pass type", ENUMERATION, options=tuple(PassType))
PASS_INSTALLED_AT = ContactProperty("nerava_wallet_pass_installed_at", "Nerava wallet pass installed at", DATETIME)
BALANCE = ContactProperty("nerava_balance", "Nova balance", NUMBER)
LIFETIME_EARNED = ContactProperty("nerava_lifetime_earned", "Nova earned in all", NUMBER)
LIFETIME_REDEEMED = ContactProperty("nerava_lifetime_redeemed", "Nova redeemed in all", NUMBER)
EARNED_COUNT = ContactProperty("nerava_earned_count", "Times Nova was earned", NUMBER)
REDEEMED_COUNT = ContactProperty("nerava_redeemed_count", "Times Nova was redeemed", NUMBER)
LAST_EARNED_AT = ContactProperty("nerava_last_earned_at", "Nova last earned at", DATETIME)
LAST_REDEEMED_AT = ContactProperty("nerava_last_redeemed_at", "Nova last redeemed at", DATETIME)
FIRST_REDEMPTION_AT = ContactProperty("nerava_first_redemption_at", "Nova first redeemed at", DATETIME)
LAST_MERCHANT_ID = ContactProperty("nerava_last_merchant_id", "Merchant of the last redemption", STRING)


class NeravaEvent(LifecycleEvent):
    """What every event says of its driver. `stage` is the furthest step so far, so it never goes back."""

    user_id: Annotated[Reference, USER_ID]
    email: Annotated[EmailAddress | None, EMAIL] = None
    phone: Annotated[Reference | None, PHONE] = None
    stage: Annotated[Stage | None, STAGE] = None


class DriverSignedUp(NeravaEvent):
    event_type = "driver_signed_up"

    created_at: Annotated[Instant, SIGNED_UP_AT]
    auth_provider: Annotated[AuthProvider | None, AUTH_PROVIDER] = None


class WalletPassInstalled(NeravaEvent):
    event_type = "wallet_pass_installed"
    sets = {PASS_INSTALLED: True}  # noqa: RUF012  # A ClassVar of the base.

    pass_type: Annotated[PassType, PASS_TYPE]
    installed_at: Annotated[Instant, PASS_INSTALLED_AT]


class NovaEarned(NeravaEvent):
    event_type = "nova_earned"

    amount: Nova
    earned_at: Annotated[Instant, LAST_EARNED_AT]
    session_id: Reference | None = None
    new_balance: Annotated[Nova | None, BALANCE] = None
    lifetime_earned: Annotated[Nova | None, LIFETIME_EARNED] = None
    earned_count: Annotated[Count | None, EARNED_COUNT] = None


class NovaRedeemed(NeravaEvent):
    event_type = "nova_redeemed"

    amount: Nova
    merchant_id: Annotated[Reference, LAST_MERCHANT_ID]
    redemption_id: Reference
    redeemed_at: Annotated[Instant, LAST_REDEEMED_AT]
    new_balance: Annotated[Nova | None, BALANCE] = None
    lifetime_redeemed: Annotated[Nova | None, LIFETIME_REDEEMED] = None
    redeemed_count: Annotated[Count | None, REDEEMED_COUNT] = None


class FirstRedemptionCompleted(NeravaEvent):
    event_type = "first_redemption_completed"

    redemption_id: Reference
    merchant_id: Reference
    completed_at: Annotated[Instant, FIRST_REDEMPTION_AT]
    amount: Nova | None = None


CATALOG = Catalog(
    events=(DriverSignedUp, WalletPassInstalled, NovaEarned, NovaRedeemed, FirstRedemptionCompleted),
    subject_field="user_id",
    email_field="email",
    group=PropertyGroup("nerava", "Nerava"),
)
