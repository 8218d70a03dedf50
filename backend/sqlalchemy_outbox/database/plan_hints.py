"""Conditions in words that PostgreSQL plans as we need, whatever its statistics say; to SQLite they mean the same."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import ColumnElement, FromClause, Integer, Select, any_, bindparam, func, literal_column, select, true
from sqlalchemy.types import TypeEngine

T = TypeVar("T")

# Constants in a statement's text, for fewer parameters to bind.
ONE: ColumnElement[int] = literal_column("1", Integer)
# The rows that `expensive_if_known` binds as `expensive`: a plan costs about 20,000 by them. From 100,000 on PostgreSQL
# would compile it (`jit_above_cost`).
EXPENSIVE = 1_500_000


def is_one_of(id_: ColumnElement[int], ids: Select[Any], dialect_name: str) -> ColumnElement[bool]:
    """PostgreSQL gets an array: it looks its members up one by one, and runs a query with LIMIT and locks only once."""
    if dialect_name == "postgresql":
        return id_ == any_(func.array(ids.scalar_subquery()))
    return id_.in_(ids)


def is_among(id_: ColumnElement[int], ids: Select[Any]) -> ColumnElement[bool]:
    """No join is made of it: expecting few rows, PostgreSQL would compare each with each."""
    return id_.in_(ids).is_(true())


def looked_up(ids: Select[Any], events: FromClause) -> ColumnElement[bool]:
    """Whether there is one, looked up for each event by itself. EXISTS may be planned as one reading of all."""
    return ids.limit(ONE).correlate(events).scalar_subquery().is_not(None)


def unknown_when_planned(parameter: str, type_: TypeEngine[T]) -> ColumnElement[T]:
    """A bound value that is not known when the statement is planned, so that its plan fits any.

    If it knew an id, PostgreSQL would plan each claim anew, for as many events as its statistics have behind that id.
    """
    return select(bindparam(parameter, type_=type_)).scalar_subquery()


def expensive_if_known(value: ColumnElement[float]) -> ColumnElement[float]:
    """The value, which is never NULL; and what makes PostgreSQL keep a statement's plan. Binds
    `expensive`, which is EXPENSIVE.

    It keeps a plan for any values for as long as the plans that it made for given ones cost more. Those were the first
    few, and would be the cheaper ones once statistics made the statement seem costlier. So they are made expensive by a
    count that grows with a given value and is never carried out.
    """
    numbers = func.generate_series(ONE, bindparam("expensive", type_=Integer)).table_valued("n")
    return func.coalesce(value, select(func.count()).select_from(numbers).scalar_subquery())
