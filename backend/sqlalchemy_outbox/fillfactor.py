"""How full PostgreSQL packs a table's pages: what is left free takes a row's next version, and no index changes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import DDL, Table, event


def set_fillfactor(table: Table, percent: int) -> None:
    options = table.dialect_options["postgresql"]
    if "with" in options:
        options["with"] = {"fillfactor": percent}
        return
    # SQLAlchemy 2.0 has no words for it in CREATE TABLE.
    statement: Any = DDL(f"ALTER TABLE %(fullname)s SET (fillfactor = {percent})")  # type: ignore[no-untyped-call]
    event.listen(table, "after_create", statement.execute_if(dialect="postgresql"))
