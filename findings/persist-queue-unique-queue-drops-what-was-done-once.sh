#!/usr/bin/env bash
# A UniqueAckQ takes no item that it has had before: what was acknowledged and is put again is dropped in silence.
#
# persist-queue 1.1.0. Guess: unique means that an item waits at most once; when it is done it can be put again.
# Seen: put() returns, size is 0 and get() raises Empty, until clear_acked_data() removed the old row; that keeps the
# newest thousand unless it is told otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "persist-queue==1.1.0"
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

from persistqueue import UniqueAckQ

queue = UniqueAckQ(f"{sys.argv[1]}/queue")
queue.put("contact 1")
queue.ack(queue.get())
queue.put("contact 1")
again = queue.size
queue.clear_acked_data()
queue.put("contact 1")
after_clearing = queue.size
queue.clear_acked_data(keep_latest=0)
queue.put("contact 1")
after_clearing_all = queue.size
print("waiting:", again, "- after clear_acked_data():", after_clearing, "- keep_latest=0:", after_clearing_all)
if (again, after_clearing, after_clearing_all) != (0, 0, 1):
    raise SystemExit("the behaviour has changed")
PY
