"""The database lets go of what was deleted: PostgreSQL keeps dead rows until a vacuum, and SQLite a log."""

from __future__ import annotations

from sqlalchemy import Engine, text

from sqlalchemy_outbox.database import sqlite_files
from sqlalchemy_outbox.database.driver import qualified_name
from sqlalchemy_outbox.model import Outbox

_IS_OWNERS = text(
    "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = CAST(:table AS regclass)"
)


def vacuum(engine: Engine, outbox: Outbox) -> list[str]:
    """Vacuum the outbox's tables; those that the role may not, which on PostgreSQL must own them.

    There dead rows are let go that no transaction can see any more. On SQLite the file is written anew.
    """
    if engine.dialect.name == "sqlite":
        return [] if sqlite_files.clean(engine, None) else ["the file, which others use"]
    left = []
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for table in outbox.tables:
            name = qualified_name(connection, table)
            # Of a table that it may not vacuum PostgreSQL only warns.
            if connection.execute(_IS_OWNERS, {"table": name}).scalar_one():
                connection.execute(text(f"VACUUM {name}"))
            else:
                left.append(name)
    return left
