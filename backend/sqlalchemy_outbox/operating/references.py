"""Tables of an application's that refer to an outbox's rows, and so have a say in whether these may be deleted."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from sqlalchemy_outbox.database.driver import qualified_name
from sqlalchemy_outbox.model import Outbox

# By NO ACTION and RESTRICT.
_REFUSING = text(
    "SELECT conname, CAST(CAST(conrelid AS regclass) AS text) FROM pg_catalog.pg_constraint "
    "WHERE contype = 'f' AND confdeltype IN ('a', 'r') AND confrelid = CAST(:table AS regclass) ORDER BY 2, 1"
)


def undeletable(connection: Connection, outbox: Outbox) -> Iterator[str]:
    """Foreign keys that keep rows from being purged and discarded; none on other databases than PostgreSQL."""
    if connection.dialect.name != "postgresql":
        return
    for table in outbox.tables:
        for constraint, refers in connection.execute(_REFUSING, {"table": qualified_name(connection, table)}):
            yield f"{constraint} of {refers}"
