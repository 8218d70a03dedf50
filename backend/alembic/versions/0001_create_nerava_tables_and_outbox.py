"""Create Nerava's tables and the outbox.

Takes no lock that anyone could notice: every table is new.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Spelled out rather than imported: a migration must mean the same after the application's types have changed.
INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
ID = sa.Uuid().with_variant(sa.Text(), "sqlite")
ENERGY = sa.Numeric(12, 6).with_variant(sa.Text(), "sqlite")
EVENT_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    create_drivers()
    create_sign_in()
    create_wallets()
    create_nova()
    create_outbox()


def downgrade() -> None:
    for table in (
        "outbox_events",
        "redemptions",
        "nova_grants",
        "wallet_passes",
        "wallets",
        "access_tokens",
        "otp_challenges",
        "drivers",
    ):
        op.drop_table(table)


def create_drivers() -> None:
    op.create_table(
        "drivers",
        sa.Column("id", ID, primary_key=True),
        sa.Column("phone", sa.Text, unique=True),
        sa.Column("email", sa.Text, unique=True),
        sa.Column("auth_provider", sa.Text, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.CheckConstraint("phone IS NOT NULL OR email IS NOT NULL", name="ck_drivers_reachable"),
    )


def create_sign_in() -> None:
    op.create_table(
        "otp_challenges",
        sa.Column("id", ID, primary_key=True),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("code_hash", sa.Text, nullable=False),
        sa.Column("wrong_tries", sa.BigInteger, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("used_at", INSTANT),
    )
    op.create_index("ix_otp_challenges_address", "otp_challenges", ["address", "created_at"])
    op.create_table(
        "access_tokens",
        sa.Column("token_hash", sa.Text, primary_key=True),
        sa.Column("driver_id", ID, sa.ForeignKey("drivers.id"), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
    )
    op.create_index("ix_access_tokens_driver_id", "access_tokens", ["driver_id"])


def create_wallets() -> None:
    op.create_table(
        "wallets",
        sa.Column("driver_id", ID, sa.ForeignKey("drivers.id"), primary_key=True),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("lifetime_earned", sa.BigInteger, nullable=False),
        sa.Column("lifetime_redeemed", sa.BigInteger, nullable=False),
        sa.Column("earned_count", sa.BigInteger, nullable=False),
        sa.Column("redeemed_count", sa.BigInteger, nullable=False),
        sa.CheckConstraint("balance >= 0", name="ck_wallets_balance_not_negative"),
        sa.CheckConstraint("balance = lifetime_earned - lifetime_redeemed", name="ck_wallets_balance_adds_up"),
    )
    op.create_table(
        "wallet_passes",
        sa.Column("id", ID, primary_key=True),
        sa.Column("driver_id", ID, sa.ForeignKey("drivers.id"), nullable=False),
        sa.Column("pass_type", sa.Text, nullable=False),
        sa.Column("installed_at", INSTANT, nullable=False),
        sa.UniqueConstraint("driver_id", "pass_type", name="uq_wallet_passes_driver_pass_type"),
    )


def create_nova() -> None:
    op.create_table(
        "nova_grants",
        sa.Column("id", ID, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False, unique=True),
        sa.Column("driver_id", ID, sa.ForeignKey("drivers.id"), nullable=False),
        sa.Column("energy_kwh", ENERGY, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("new_balance", sa.BigInteger, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.CheckConstraint("amount >= 0", name="ck_nova_grants_amount"),
    )
    op.create_index("ix_nova_grants_driver_id", "nova_grants", ["driver_id"])
    op.create_table(
        "redemptions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("driver_id", ID, sa.ForeignKey("drivers.id"), nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("merchant_id", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("new_balance", sa.BigInteger, nullable=False),
        sa.Column("is_first", sa.Boolean, nullable=False),
        sa.Column("redeemed_at", INSTANT, nullable=False),
        sa.UniqueConstraint("driver_id", "idempotency_key", name="uq_redemptions_driver_idempotency_key"),
        sa.CheckConstraint("amount >= 1", name="ck_redemptions_amount"),
    )
    op.create_index(
        "uq_redemptions_first",
        "redemptions",
        ["driver_id"],
        unique=True,
        postgresql_where=sa.text("is_first"),
        sqlite_where=sa.text("is_first"),
    )


def create_outbox() -> None:
    op.create_table(
        "outbox_events",
        sa.Column("id", EVENT_ID, primary_key=True, autoincrement=True),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("processed_at", INSTANT),
        # Ids are never used twice, so order by id stays the order of commits even after a purge.
        sqlite_autoincrement=True,
    )
