#!/usr/bin/env bash
# An empty IN over a type with a bind_expression is rendered as SQL that no database parses.
#
# SQLAlchemy 2.1.9. Guess: an empty list renders as for a plain column, a condition that is never true.
# Seen: the words for the empty list are put inside of the expression, and so SQLite is sent
#   t.name IN ((CAST(SELECT 1 FROM (SELECT 1) WHERE 1!=1 AS TEXT) || ''))
# which it answers with a syntax error; so does PostgreSQL, with its own words for the list.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "SQLAlchemy==2.1.9"
"$folder/venv/bin/python" - <<'PY'
from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator


class AsBlob(FunctionElement):
    inherit_cache = True
    type = Text()


@compiles(AsBlob)
def _as_blob(element, compiler, **kw):
    return f"(CAST({compiler.process(element.clauses, **kw)} AS TEXT) || '')"


class Wrapped(TypeDecorator):
    impl = Text
    cache_ok = True

    def bind_expression(self, bindparam):
        return AsBlob(bindparam)


table = Table("t", MetaData(), Column("id", Integer, primary_key=True), Column("name", Wrapped))
engine = create_engine("sqlite://")
table.metadata.create_all(engine)
with engine.begin() as connection:
    connection.execute(table.insert(), [{"name": "a"}, {"name": "b"}])
    assert connection.execute(select(table.c.id).where(table.c.name.in_(["a"]))).scalars().all() == [1]
    try:
        connection.execute(select(table.c.id).where(table.c.name.in_([]))).scalars().all()
    except OperationalError as error:
        print("empty list:", error.orig, "in", " ".join(error.statement.split()))
    else:
        raise SystemExit("the behaviour has changed: an empty list is rendered as valid SQL")
PY
