"""Texts of people and of destinations in columns: the encoding of PostgreSQL's session may lack a letter of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Dialect, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import BindParameter, ColumnElement, FunctionElement
from sqlalchemy.types import TypeDecorator

from sqlalchemy_outbox.payload import storable


class AnyText(TypeDecorator[str]):
    """Text that travels to PostgreSQL as ASCII JSON and back as UTF-8 bytes.

    What no database stores, NUL and halves of characters, is written as escapes.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        text = storable(value)
        return text if dialect.name == "sqlite" else json.dumps(text)

    def bind_expression(self, bindparam: BindParameter[str]) -> ColumnElement[str]:
        return _FromJson(bindparam)

    def column_expression(self, column: ColumnElement[str]) -> ColumnElement[str]:
        return _AsUtf8(column)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], str | None] | None:
        return None if dialect.name == "sqlite" else _decode


def _decode(value: bytes | memoryview | None) -> str | None:
    # psycopg2 gives a view of the bytes.
    return None if value is None else str(value, "utf-8")


class _FromJson(FunctionElement[str]):
    inherit_cache = True
    type = Text()


class _AsUtf8(FunctionElement[str]):
    inherit_cache = True
    type = AnyText()


@compiles(_FromJson, "postgresql")
def _from_json_postgresql(element: _FromJson, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(CAST({compiler.process(element.clauses, **kw)} AS JSON) #>> '{{}}')"


@compiles(_FromJson, "sqlite")
def _from_json_sqlite(element: _FromJson, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(_AsUtf8, "postgresql")
def _as_utf8_postgresql(element: _AsUtf8, compiler: SQLCompiler, **kw: Any) -> str:
    return f"convert_to({compiler.process(element.clauses, **kw)}, 'UTF8')"


@compiles(_AsUtf8, "sqlite")
def _as_utf8_sqlite(element: _AsUtf8, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)
