#!/usr/bin/env bash
# Opening an SQLiteAckQueue on a file that another worker uses makes ready again what that worker has in hand.
#
# persist-queue 1.1.0. Guess: an item that was handed out and not acknowledged belongs to whom it was handed to, until that
# one closes or gives it back.
# Seen: the second worker gets the item that the first one has in hand. With auto_resume=False it gets the next one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "persist-queue==1.1.0"
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

from persistqueue import SQLiteAckQueue

first = SQLiteAckQueue(f"{sys.argv[1]}/queue")
for item in ("a", "b"):
    first.put(item)
in_hand = first.get()
careful = SQLiteAckQueue(f"{sys.argv[1]}/queue", auto_resume=False).get(block=False)
second = SQLiteAckQueue(f"{sys.argv[1]}/queue").get(block=False)
print("first has:", in_hand, "- one without auto_resume gets:", careful, "- the next one gets:", second)
if (in_hand, careful, second) != ("a", "b", "a"):
    raise SystemExit("the behaviour has changed")
PY
