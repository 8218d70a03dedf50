"""Keep each delivery, what operators did and what they discarded, group failures, and let a person hold the gate.

PostgreSQL: ACCESS EXCLUSIVE on outbox_events while failed events get their reason and two indexes of failed events are
built; commits that enqueue wait for it a second at most, and then go on without their events, so stop the application
or do it in a quiet hour. Taking it back drops what the new tables hold.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
UUID = sa.Uuid().with_variant(sa.Text(), "sqlite")
ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")

FAILED_INDEXES = {"failed_id": ["id"], "failed_reason": ["failure_reason", "id"]}
REASON_CHARS_MAX = 300
OPEN_HAD_NO_END = "(state = 'open') = (until IS NULL)"
OPEN_HAS_NO_END = "(state = 'open' OR held_by IS NOT NULL) = (until IS NULL)"


def upgrade() -> None:
    op.add_column("outbox_events", sa.Column("failure_reason", sa.Text))
    fill_reasons()
    where = sa.text("failed_at IS NOT NULL")
    for name, columns in FAILED_INDEXES.items():
        op.create_index(
            f"ix_outbox_events_{name}", "outbox_events", columns, postgresql_where=where, sqlite_where=where
        )
    with op.batch_alter_table("outbox_events_gate") as gate:
        gate.add_column(sa.Column("held_by", sa.Text))
        gate.drop_constraint("ck_outbox_events_gate_open_has_no_end", type_="check")
        gate.create_check_constraint("ck_outbox_events_gate_open_has_no_end", sa.text(OPEN_HAS_NO_END))
        gate.create_check_constraint(
            "ck_outbox_events_gate_held_by_is_held", sa.text("held_by IS NULL OR state = 'held'")
        )
    create_deliveries()
    create_discarded()
    create_audit()


def downgrade() -> None:
    for name in ("audit_events", "audit", "discarded", "delivery_events", "deliveries"):
        op.drop_table(f"outbox_events_{name}")
    # An earlier release lifts a hold by a probe.
    now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')" if op.get_bind().dialect.name == "sqlite" else "now()"
    with op.batch_alter_table("outbox_events_gate") as gate:
        gate.drop_constraint("ck_outbox_events_gate_held_by_is_held", type_="check")
        gate.drop_constraint("ck_outbox_events_gate_open_has_no_end", type_="check")
    op.execute(f"UPDATE outbox_events_gate SET until = {now} WHERE held_by IS NOT NULL")  # noqa: S608
    with op.batch_alter_table("outbox_events_gate") as gate:
        gate.drop_column("held_by")
        gate.create_check_constraint("ck_outbox_events_gate_open_has_no_end", sa.text(OPEN_HAD_NO_END))
    for name in FAILED_INDEXES:
        op.drop_index(f"ix_outbox_events_{name}", "outbox_events")
    op.drop_column("outbox_events", "failure_reason")


def fill_reasons() -> None:
    """Give events that have failed the reason that a worker would: the error, each word that has a digit as `#`."""
    if op.get_bind().dialect.name == "sqlite":
        driver = op.get_bind().connection.driver_connection
        driver.create_function("reason_of", 1, lambda error: error and re.sub(r"[\w-]*\d[\w-]*", "#", error))
        reason = "reason_of(last_error)"
    else:
        reason = r"regexp_replace(last_error, '[\w-]*\d[\w-]*', '#', 'g')"
    op.execute(
        f"UPDATE outbox_events SET failure_reason = substr({reason}, 1, {REASON_CHARS_MAX}) "  # noqa: S608
        "WHERE failed_at IS NOT NULL"
    )


def create_deliveries() -> None:
    op.create_table(
        "outbox_events_deliveries",
        sa.Column("id", ID, primary_key=True, autoincrement=True),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("category", sa.Text),
        sa.Column("correlation_id", sa.Text),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("traceparent", sa.Text),
    )
    op.create_index("ix_outbox_events_deliveries_started", "outbox_events_deliveries", ["started_at"])
    op.create_table(
        "outbox_events_delivery_events",
        sa.Column("event_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("delivery_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("outcome", sa.Text, nullable=False),
    )
    op.create_index("ix_outbox_events_delivery_events_delivery", "outbox_events_delivery_events", ["delivery_id"])


def create_discarded() -> None:
    op.create_table(
        "outbox_events_discarded",
        sa.Column("id", ID, primary_key=True, autoincrement=False),
        sa.Column("event_id", UUID, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("available_at", INSTANT, nullable=False),
        sa.Column("claimed_until", INSTANT),
        sa.Column("claim_token", sa.Text),
        sa.Column("processed_at", INSTANT),
        sa.Column("failed_at", INSTANT),
        sa.Column("attempt_count", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.Column("failure_reason", sa.Text),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("retried_at", INSTANT),
        sa.Column("discarded_at", INSTANT, nullable=False),
        sa.Column("discarded_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.UniqueConstraint("event_id", name="uq_outbox_events_discarded_event_id"),
    )
    op.create_index("ix_outbox_events_discarded_at", "outbox_events_discarded", ["discarded_at"])


def create_audit() -> None:
    op.create_table(
        "outbox_events_audit",
        sa.Column("id", ID, primary_key=True, autoincrement=True),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "outbox_events_audit_events",
        sa.Column("event_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("audit_id", sa.BigInteger, primary_key=True, autoincrement=False),
    )
