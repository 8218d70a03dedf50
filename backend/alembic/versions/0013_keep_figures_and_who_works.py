"""Keep figures by the minute, the gate's closures, and who works.

PostgreSQL: ACCESS EXCLUSIVE on outbox_events_workers for a moment; no row is written anew, and the other tables are
new. Workers and applications of the release before may go on; what they do is in no figure.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
COUNTS = ("enqueued", "delivered", "failed", "answered", "refused", "throttled", "unanswered", "waiting")
OF_WORKERS = {
    "started_at": INSTANT,
    "stopped_at": INSTANT,
    "machine": sa.Text(),
    "process": sa.Integer(),
    "version": sa.Text(),
    "in_flight": sa.Integer(),
    "events_per_second": sa.Float(),
    "requests_per_second": sa.Float(),
    "requests_allowed_per_second": sa.Float(),
}


def upgrade() -> None:
    for name, type_ in OF_WORKERS.items():
        op.add_column("outbox_events_workers", sa.Column(name, type_))
    op.create_table(
        "outbox_events_figures",
        sa.Column("minutes", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("at", INSTANT, primary_key=True),
        sa.Column("event_type", sa.Text, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTS),
        sa.Column("lag_seconds", sa.Float, nullable=False, server_default="0"),
    )
    op.create_table(
        "outbox_events_counted",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("up_to", sa.BigInteger, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_outbox_events_counted_is_one_row"),
    )
    op.create_table(
        "outbox_events_closures",
        sa.Column("began_at", INSTANT, primary_key=True),
        sa.Column("ended_at", INSTANT),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("held_by", sa.Text),
        sa.Column("times", sa.Integer, nullable=False, server_default="1"),
    )
    # What shuts the gate now has no known beginning; it is told from here on. A throttle ends by itself.
    now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')" if op.get_context().dialect.name == "sqlite" else "now()"
    op.execute(
        "INSERT INTO outbox_events_closures (began_at, ended_at, state, reason, held_by) "  # noqa: S608
        f"SELECT {now}, CASE state WHEN 'throttled' THEN until END, state, reason, held_by "
        "FROM outbox_events_gate WHERE state <> 'open'"
    )


def downgrade() -> None:
    for table in ("closures", "counted", "figures"):
        op.drop_table(f"outbox_events_{table}")
    # Where it was seen last, the release before forgets it within the hour.
    for name in reversed(OF_WORKERS):
        op.drop_column("outbox_events_workers", name)
