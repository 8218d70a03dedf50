"""Rows as one bound parameter: a JSON array, which both databases read as a table (a VALUES list ends at 65,535)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnClause,
    FromClause,
    Select,
    Text,
    bindparam,
    cast,
    func,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import JSON

from sqlalchemy_outbox.payload import storable


def as_parameter(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows as the JSON array to bind, their texts made storable."""
    array = json.dumps(rows)
    # Rare: looking into every value each time would take as long as the encoding.
    if "\\u0000" in array or "\\ud" in array:
        return json.dumps([{name: _storable(value) for name, value in row.items()} for row in rows])
    return array


def _storable(value: object) -> object:
    return storable(value) if isinstance(value, str) else value


def rows_of(parameter: str, columns: Sequence[ColumnClause[Any]], dialect_name: str) -> FromClause:
    """The JSON array of objects bound as `parameter`, as a table of that name with these columns."""
    if dialect_name == "sqlite":
        each = func.json_each(bindparam(parameter, type_=Text)).table_valued("value")
        members = (func.json_extract(each.c.value, f"$.{column.name}").label(column.name) for column in columns)
        return select(*members).subquery(parameter)
    return (
        func.json_to_recordset(cast(bindparam(parameter, type_=Text), JSON))
        .table_valued(*columns)
        .render_derived(name=parameter, with_types=True)
    )


def ids_in(arrays: Column[Any], dialect_name: str) -> Select[Any]:
    """The ids in a column that holds JSON arrays of them."""
    if dialect_name == "sqlite":
        each = func.json_each(arrays).table_valued("value")
        return select(each.c.value).select_from(arrays.table.join(each, true()))
    return select(cast(func.json_array_elements_text(arrays), BigInteger).label("id"))


def bound_ids() -> Select[Any]:
    """The ids in the JSON array bound as `ids`, on SQLite."""
    each = func.json_each(bindparam("ids", type_=Text)).table_valued("value")
    return select(each.c.value)


def object_of(columns: Sequence[ColumnClause[Any]]) -> Callable[[object], dict[str, Any]]:
    """A function from an item to its object in the array, by the attributes that the columns name.

    `dataclasses.asdict` copies each value, and takes longer than the statement.
    """
    names = tuple(column.name for column in columns)
    values_of = attrgetter(*names)
    return lambda item: dict(zip(names, values_of(item), strict=True))
