"""Set apart events that wait for something, and keep what they wait for.

PostgreSQL: ACCESS EXCLUSIVE on outbox_events, for as long as it takes to read the table four times: two indexes are
built, and two are built anew. Commits that enqueue meanwhile wait a second and then go on without their events, so stop
the application for it. No row is written anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
IS_OPEN = "processed_at IS NULL AND failed_at IS NULL"
# Open, in the words of the looks that these indexes are for.
IS_PUSHED_BACK_OPEN = "coalesce(failed_at, processed_at) IS NULL"
BEFORE = {
    "open": (["id"], IS_OPEN),
    "retried": (["subject", "id"], f"{IS_PUSHED_BACK_OPEN} AND retried_at IS NOT NULL"),
}
AFTER = {
    "open": (["id"], f"{IS_OPEN} AND waits_for IS NULL"),
    "below_floor": (["subject", "id"], f"{IS_PUSHED_BACK_OPEN} AND (retried_at IS NOT NULL OR waits_for IS NOT NULL)"),
    "set_apart": (["id"], f"{IS_PUSHED_BACK_OPEN} AND waits_for IS NOT NULL"),
    "waiting": (["waits_for", "available_at"], "waits_for IS NOT NULL"),
}


def upgrade() -> None:
    for table in ("outbox_events", "outbox_events_discarded"):
        op.add_column(table, sa.Column("waits_for", sa.Text))
    _replace(BEFORE, AFTER)
    op.create_table(
        "outbox_events_waits",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("look_at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    # What waits is due again: the release before holds everything for it.
    op.execute(
        "UPDATE outbox_events SET available_at = created_at "
        "WHERE processed_at IS NULL AND failed_at IS NULL AND waits_for IS NOT NULL"
    )
    op.drop_table("outbox_events_waits")
    _replace(AFTER, BEFORE)
    for table in ("outbox_events_discarded", "outbox_events"):
        op.drop_column(table, "waits_for")


def _replace(old: dict[str, tuple[list[str], str]], new: dict[str, tuple[list[str], str]]) -> None:
    for name in old:
        op.drop_index(f"ix_outbox_events_{name}", "outbox_events")
    for name, (columns, condition) in new.items():
        where = sa.text(condition)
        op.create_index(
            f"ix_outbox_events_{name}", "outbox_events", columns, postgresql_where=where, sqlite_where=where
        )
