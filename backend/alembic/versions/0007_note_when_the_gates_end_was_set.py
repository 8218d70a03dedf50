"""Note when the end of what shuts the gate was set, so that an end that was set by a wrong clock is brought back.

PostgreSQL: ACCESS EXCLUSIVE on outbox_events_gate, a table of one row, for a moment; the row is not written anew.
Workers of the release before may go on: they leave the column as it is, and what they set is taken as it stands.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.add_column("outbox_events_gate", sa.Column("until_set_at", INSTANT))


def downgrade() -> None:
    op.drop_column("outbox_events_gate", "until_set_at")
