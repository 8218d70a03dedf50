"""Keep which events are in doubt, which retries are cautious, and which event types the workers know.

PostgreSQL: ACCESS EXCLUSIVE on outbox_events and outbox_events_discarded for a moment; no row is written anew. Workers
of the release before go on meanwhile: what they leave in doubt is not marked.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
IS_IN_DOUBT = sa.text("in_doubt_at IS NOT NULL")


def upgrade() -> None:
    for table in ("outbox_events", "outbox_events_discarded"):
        op.add_column(table, sa.Column("in_doubt_at", INSTANT))
        op.add_column(table, sa.Column("is_cautious", sa.Boolean))
    op.create_index(
        "ix_outbox_events_discarded_in_doubt",
        "outbox_events_discarded",
        ["subject", "id"],
        postgresql_where=IS_IN_DOUBT,
        sqlite_where=IS_IN_DOUBT,
    )
    op.create_table(
        "outbox_events_workers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("types", sa.JSON, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("outbox_events_workers")
    op.drop_index("ix_outbox_events_discarded_in_doubt", "outbox_events_discarded")
    for table in ("outbox_events_discarded", "outbox_events"):
        op.drop_column(table, "is_cautious")
        op.drop_column(table, "in_doubt_at")
