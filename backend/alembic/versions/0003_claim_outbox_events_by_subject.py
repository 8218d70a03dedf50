"""Claim outbox events by subject, under a lease, and hold all of them back by a gate.

PostgreSQL: ACCESS EXCLUSIVE on outbox_events while its rows are rewritten and indexed, a few seconds per million.
Purge delivered events first if there are many. Events that exist keep their order: each gets an id of its own as
event_id, and its payload's user_id as subject.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
ID = sa.Uuid().with_variant(sa.Text(), "sqlite")

IS_OPEN = "processed_at IS NULL AND failed_at IS NULL"
INDEXES = {
    "open": (["id"], IS_OPEN),
    "open_subject": (["subject", "id"], IS_OPEN),
    "backing_off": (["available_at"], f"{IS_OPEN} AND attempt_count > 0"),
    "claimed": (["claimed_until"], "claim_token IS NOT NULL"),
    "failed": (["subject", "id"], "failed_at IS NOT NULL"),
    "delivered": (["processed_at"], "processed_at IS NOT NULL"),
}
CHECKS = {
    "claim_is_whole": "(claimed_until IS NULL) = (claim_token IS NULL)",
    "failed_is_spent": "(attempt_count >= 3) = (failed_at IS NOT NULL)",
    "claim_is_open": "claim_token IS NULL OR (processed_at IS NULL AND failed_at IS NULL)",
}
# A payload that is no JSON has no user_id, rather than stopping the migration.
USER_ID_OF = """
CREATE FUNCTION pg_temp.user_id_of(payload text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN payload::json ->> 'user_id';
EXCEPTION WHEN others THEN
    RETURN NULL;
END $$
"""
NEW_COLUMNS = (
    ("event_id", ID),
    ("subject", sa.Text()),
    ("available_at", INSTANT),
    ("claimed_until", INSTANT),
    ("claim_token", sa.Text()),
    ("failed_at", INSTANT),
    ("traceparent", sa.Text()),
    ("retried_at", INSTANT),
)


def upgrade() -> None:
    for name, type_ in NEW_COLUMNS:
        op.add_column("outbox_events", sa.Column(name, type_))
    op.add_column("outbox_events", sa.Column("dry_run", sa.Boolean, nullable=False, server_default=sa.false()))
    fill_new_columns()
    constrain()
    for name, (columns, condition) in INDEXES.items():
        where = sa.text(condition)
        op.create_index(
            f"ix_outbox_events_{name}", "outbox_events", columns, postgresql_where=where, sqlite_where=where
        )
    create_gate()


def downgrade() -> None:
    op.drop_table("outbox_events_gate")
    for name in INDEXES:
        op.drop_index(f"ix_outbox_events_{name}", "outbox_events")
    with rebuilt_on_sqlite() as table:
        for name in CHECKS:
            table.drop_constraint(f"ck_outbox_events_{name}", type_="check")
        table.drop_constraint("uq_outbox_events_event_id", type_="unique")
        table.drop_column("dry_run")
        for name, _ in reversed(NEW_COLUMNS):
            table.drop_column(name)


def fill_new_columns() -> None:
    if op.get_bind().dialect.name == "sqlite":
        hexadecimal = "lower(hex(randomblob({})))"
        event_id = "||'-'||".join(hexadecimal.format(n) for n in (4, 2, 2, 2, 6))
        subject = "CASE WHEN json_valid(payload) THEN json_extract(payload, '$.user_id') END"
    else:
        event_id = "gen_random_uuid()"
        op.execute(USER_ID_OF)
        subject = "pg_temp.user_id_of(payload)"
    op.execute(
        f"UPDATE outbox_events SET event_id = {event_id}, subject = {subject}, available_at = created_at, "  # noqa: S608
        "failed_at = CASE WHEN attempt_count >= 3 AND processed_at IS NULL THEN created_at END, "
        "attempt_count = CASE WHEN processed_at IS NULL THEN attempt_count ELSE 0 END"
    )
    op.execute(
        "UPDATE outbox_events SET subject = CAST(event_id AS text) "
        "WHERE subject IS NULL OR length(subject) NOT BETWEEN 1 AND 255"
    )


def constrain() -> None:
    with rebuilt_on_sqlite() as table:
        for name, type_ in NEW_COLUMNS[:3]:
            table.alter_column(name, existing_type=type_, nullable=False)
        table.create_unique_constraint("uq_outbox_events_event_id", ["event_id"])
        for name, condition in CHECKS.items():
            table.create_check_constraint(f"ck_outbox_events_{name}", sa.text(condition))


def create_gate() -> None:
    op.create_table(
        "outbox_events_gate",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False, server_default="open"),
        sa.Column("until", INSTANT),
        sa.Column("reason", sa.Text),
        sa.Column("next_slot_at", INSTANT, nullable=False),
        sa.Column("outages", sa.Integer, nullable=False, server_default="0"),
        sa.CheckConstraint("id = 1", name="ck_outbox_events_gate_is_one_row"),
        sa.CheckConstraint("(state = 'open') = (until IS NULL)", name="ck_outbox_events_gate_open_has_no_end"),
    )


def rebuilt_on_sqlite() -> op.batch_alter_table:
    """SQLite cannot alter constraints, so the table is copied; ids must stay unused after a purge there too."""
    return op.batch_alter_table("outbox_events", table_kwargs={"sqlite_autoincrement": True})
