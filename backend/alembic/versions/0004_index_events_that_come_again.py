"""Index events that come again and the delivered events of a subject, and tell the indexes of open events apart.

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

WAS_OPEN = "processed_at IS NULL AND failed_at IS NULL"
BEFORE = {
    "open_subject": (["subject", "id"], WAS_OPEN),
    "backing_off": (["available_at"], f"{WAS_OPEN} AND attempt_count > 0"),
}
AFTER = {
    "open_subject": (["subject", "id"], "coalesce(processed_at, failed_at) IS NULL"),
    "backing_off": (["available_at"], "coalesce(failed_at, processed_at) IS NULL AND available_at > created_at"),
    "retried": (["subject", "id"], "coalesce(failed_at, processed_at) IS NULL AND retried_at IS NOT NULL"),
    "delivered_subject": (["subject", "id"], "processed_at IS NOT NULL"),
}


def upgrade() -> None:
    replace(BEFORE, AFTER)


def downgrade() -> None:
    replace(AFTER, BEFORE)


def replace(old: dict[str, tuple[list[str], str]], new: dict[str, tuple[list[str], str]]) -> None:
    for name in old:
        op.drop_index(f"ix_outbox_events_{name}", "outbox_events")
    for name, (columns, condition) in new.items():
        where = sa.text(condition)
        op.create_index(
            f"ix_outbox_events_{name}", "outbox_events", columns, postgresql_where=where, sqlite_where=where
        )
