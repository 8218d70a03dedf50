"""Index events that come again, and the delivered events of a subject.

PostgreSQL: SHARE on outbox_events while the indexes are built, about a second per million events; commits that enqueue
wait for it a second at most, and then go on without their events, so stop the application or do it in a quiet hour.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IS_OPEN = "processed_at IS NULL AND failed_at IS NULL"
BACKING_OFF = "ix_outbox_events_backing_off"


def upgrade() -> None:
    op.drop_index(BACKING_OFF, "outbox_events")
    create(BACKING_OFF, ["available_at"], f"{IS_OPEN} AND available_at > created_at")
    create("ix_outbox_events_retried", ["subject", "id"], f"{IS_OPEN} AND retried_at IS NOT NULL")
    create("ix_outbox_events_delivered_subject", ["subject", "id"], "processed_at IS NOT NULL")


def downgrade() -> None:
    op.drop_index("ix_outbox_events_delivered_subject", "outbox_events")
    op.drop_index("ix_outbox_events_retried", "outbox_events")
    op.drop_index(BACKING_OFF, "outbox_events")
    create(BACKING_OFF, ["available_at"], f"{IS_OPEN} AND attempt_count > 0")


def create(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "outbox_events", columns, postgresql_where=where, sqlite_where=where)
