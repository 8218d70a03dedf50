"""Keep leases in a table of their own, one row for each claim, so that no index has to know which events are claimed.

PostgreSQL: ACCESS EXCLUSIVE on outbox_events for a moment; no row is written anew, and pages that exist stay as full
as they are. Claims that are under way keep their leases, and their workers, which are of an earlier release, cannot
settle them: stop the workers first, or their events come again when the leases have run out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
CLAIM_WAS_WHOLE = "(claimed_until IS NULL) = (claim_token IS NULL)"
WAS_CLAIMED = "claim_token IS NOT NULL"


def upgrade() -> None:
    op.create_table(
        "outbox_events_leases",
        sa.Column("token", sa.Text, primary_key=True),
        sa.Column("until", INSTANT, nullable=False),
        sa.Column("event_ids", sa.JSON, nullable=False),
    )
    op.create_index("ix_outbox_events_leases_until", "outbox_events_leases", ["until"])
    array_of = "json_group_array" if is_sqlite() else "json_agg"
    op.execute(
        "INSERT INTO outbox_events_leases (token, until, event_ids) "  # noqa: S608
        f"SELECT claim_token, max(claimed_until), {array_of}(id) FROM outbox_events WHERE {WAS_CLAIMED} "
        "GROUP BY claim_token"
    )
    op.drop_index("ix_outbox_events_claimed", "outbox_events")
    with op.batch_alter_table("outbox_events", table_kwargs={"sqlite_autoincrement": True}) as events:
        events.drop_constraint("ck_outbox_events_claim_is_whole", type_="check")
        events.drop_column("claimed_until")
    op.drop_column("outbox_events_discarded", "claimed_until")
    if not is_sqlite():
        op.execute("ALTER TABLE outbox_events SET (fillfactor = 50)")


def downgrade() -> None:
    if not is_sqlite():
        op.execute("ALTER TABLE outbox_events RESET (fillfactor)")
    for table in ("outbox_events", "outbox_events_discarded"):
        op.add_column(table, sa.Column("claimed_until", INSTANT))
    leases = "(SELECT until FROM outbox_events_leases WHERE token = claim_token)"
    # An event whose lease is gone is claimed by nobody.
    op.execute(f"UPDATE outbox_events SET claimed_until = {leases} WHERE {WAS_CLAIMED}")  # noqa: S608
    op.execute("UPDATE outbox_events SET claim_token = NULL WHERE claimed_until IS NULL")
    with op.batch_alter_table("outbox_events", table_kwargs={"sqlite_autoincrement": True}) as events:
        events.create_check_constraint("ck_outbox_events_claim_is_whole", sa.text(CLAIM_WAS_WHOLE))
    where = sa.text(WAS_CLAIMED)
    op.create_index(
        "ix_outbox_events_claimed", "outbox_events", ["claimed_until"], postgresql_where=where, sqlite_where=where
    )
    op.drop_table("outbox_events_leases")


def is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
