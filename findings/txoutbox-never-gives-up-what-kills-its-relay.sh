#!/usr/bin/env bash
# A message whose publisher kills the process is claimed for ever, and each time charges an attempt to all that was claimed
# with it: a message that was never tried is dead-lettered when it fails for the first time.
#
# txoutbox 0.2.2. Guess: attempts are counted when a message is claimed, so that one that kills its relay is dead-lettered
# once max_attempts of them are spent.
# Seen: with max_attempts=3 it is still pending, and claimed, after 5 claims. Only a publisher that raises is asked whether
# attempts are left; a neighbour that has been claimed along with it 5 times, and is tried for the first time, has none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "txoutbox==0.2.2"
cat >"$folder/relay.py" <<'PY'
import asyncio
import os
import sys
import time
from datetime import timedelta

from txoutbox import Relay, RelayConfig
from txoutbox.adapters.sqlite import SqliteStorage

FILE, TURN = sys.argv[1:]
LEASE = timedelta(seconds=0.2)
CONFIG = RelayConfig(max_attempts=3, lease=LEASE, publish_timeout=0.1, batch_size=10)


async def main():
    storage = SqliteStorage(FILE)
    if TURN == "prepare":
        storage.create_schema()
        await storage.add("t", "kills", key="a")
        await storage.add("t", "neighbour", key="b")
        return
    time.sleep(LEASE.total_seconds())
    calls = []

    async def publish(message):
        calls.append((message.text(), message.attempts))
        if TURN == "kill" and message.text() == "kills":
            print("claimed with attempts", message.attempts, flush=True)
            os._exit(7)
        if message.text() == "neighbour":
            raise ConnectionError("for a moment")

    result = await Relay(storage, publish, config=CONFIG).run_once()
    print("calls:", calls, "- published:", result.published, "- dead-lettered:", result.dead_lettered)
    if (calls, result.published, result.dead_lettered) != ([("kills", 6), ("neighbour", 6)], 1, 1):
        raise SystemExit("the behaviour has changed")


asyncio.run(main())
PY
relay() { "$folder/venv/bin/python" "$folder/relay.py" "$folder/outbox.db" "$1"; }
relay prepare
for _ in 1 2 3 4 5; do
  status=0
  relay kill || status=$?
  if [ "$status" != 7 ]; then
    echo "the behaviour has changed" >&2
    exit 1
  fi
done
relay publish 2>/dev/null
