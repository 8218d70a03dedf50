"""Keep where each subject was delivered to, and who was forgotten.

PostgreSQL: two new tables, and no lock on any other; workers and applications of the release before may go on. They
know nothing of who is forgotten: see docs/erasure.md. Going back loses who was forgotten, and with it that their
events are refused.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EVENT_ID = sa.Uuid().with_variant(sa.Text(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "outbox_events_subjects",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("record_id", sa.Text, nullable=False),
        sa.Column("key_property", sa.Text, nullable=False),
        sa.Column("first_delivered_at", INSTANT, nullable=False),
        sa.Column("last_delivered_at", INSTANT, nullable=False),
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE outbox_events_subjects SET (fillfactor = 80)")
    op.create_table(
        "outbox_events_erasures",
        sa.Column("id", ID, sa.Identity(), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_name", sa.Text, nullable=False),
        sa.Column("event_id", EVENT_ID, nullable=False),
        sa.Column("way", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("forgotten_at", INSTANT, nullable=False),
        sa.Column("look_at", INSTANT, nullable=False),
        sa.Column("erased_at", INSTANT),
        sa.Column("told", sa.Text),
        sa.Column("removed", sa.Text),
        sa.Column("cleaned_at", INSTANT),
        sa.UniqueConstraint("event_id", name="uq_outbox_events_erasures_event_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_events_erasures_name", "outbox_events_erasures", ["name"])
    where = sa.text("cleaned_at IS NULL")
    op.create_index(
        "ix_outbox_events_erasures_open", "outbox_events_erasures", ["id"], postgresql_where=where, sqlite_where=where
    )


def downgrade() -> None:
    op.drop_table("outbox_events_erasures")
    op.drop_table("outbox_events_subjects")
