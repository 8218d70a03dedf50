"""Rows as one bound parameter: a JSON array, which both databases read as a table (a VALUES list ends at 65,535)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnClause, FromClause, Text, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import JSON


def rows_of(parameter: str, columns: Sequence[ColumnClause[Any]], dialect_name: str) -> FromClause:
    """The JSON array of objects bound as `parameter`, as a table of that name with these columns."""
    if dialect_name == "sqlite":
        each = func.json_each(bindparam(parameter, type_=Text)).table_valued("value")
        members = (func.json_extract(each.c.value, f"$.{it.name}").label(it.name) for it in columns)
        return select(*members).subquery(parameter)
    return (
        func.json_to_recordset(cast(bindparam(parameter, type_=Text), JSON))
        .table_valued(*columns)
        .render_derived(name=parameter, with_types=True)
    )
