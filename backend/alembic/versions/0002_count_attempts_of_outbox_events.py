"""Count the attempts of outbox events, and keep the last error.

PostgreSQL: ACCESS EXCLUSIVE on outbox_events for milliseconds; a constant default rewrites nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("outbox_events", sa.Column("attempt_count", sa.Integer, nullable=False, server_default="0"))
    op.add_column("outbox_events", sa.Column("last_error", sa.Text))


def downgrade() -> None:
    op.drop_column("outbox_events", "last_error")
    op.drop_column("outbox_events", "attempt_count")
