"""Keep which of the operators' sessions were ended before their time, and which client asked for a one-time code.

PostgreSQL: ACCESS EXCLUSIVE on otp_challenges for a moment, and SHARE while its index is built: who signs in meanwhile
waits, a second for each million codes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "outbox_events_ended_sessions",
        sa.Column("session", sa.Text, primary_key=True),
        sa.Column("ends_at", INSTANT, nullable=False),
    )
    op.add_column("otp_challenges", sa.Column("client", sa.Text))
    op.create_index("ix_otp_challenges_client", "otp_challenges", ["client", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_otp_challenges_client", "otp_challenges")
    op.drop_column("otp_challenges", "client")
    op.drop_table("outbox_events_ended_sessions")
