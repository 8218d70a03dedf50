"""The outbox's tables as numbered steps, for an application's own migrations.

    def upgrade() -> None:                       # in a revision of your Alembic history
        migrations.upgrade(op, 1)

    migrations.migrate(connection, OUTBOX)       # without Alembic: what is missing, in order

    python -m sqlalchemy_outbox.migrations postgresql 1      # without Python: a step's SQL

Each step is a file of SQL in `postgresql/` and one in `sqlite/`, which says what it locks and for how long. A step is
never changed once it was released; a later version brings the next number.
"""

from sqlalchemy_outbox.migrations.autogenerate import render_item
from sqlalchemy_outbox.migrations.steps import Direction, Step, downgrade, latest, migrate, missing, steps, upgrade

__all__ = ["Direction", "Step", "downgrade", "latest", "migrate", "missing", "render_item", "steps", "upgrade"]
