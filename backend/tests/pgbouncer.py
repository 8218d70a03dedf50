"""A PgBouncer of the tests' own: transaction pooling on a loopback port, before a PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from tests.postgres import free_port

_START_DEADLINE_SECONDS = 10


class PgBouncerMissing(Exception):
    """No PgBouncer on this machine; `apt-get install pgbouncer`."""


@contextmanager
def run_pgbouncer(server_url: str, **settings: str) -> Iterator[str]:
    """Yield the URL, without a database name, of a pooler before the server; `settings` are PgBouncer's own."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        raise PgBouncerMissing(PgBouncerMissing.__doc__)
    folder = Path(tempfile.mkdtemp(prefix="outbox-pgbouncer-"))
    folder.chmod(0o755)
    port = free_port()
    file = _configure(folder, server_url, {"listen_port": str(port), **settings})
    # It refuses to be root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    process = subprocess.Popen(
        [program, "-q", file],
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=[] if user else None,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = make_url(server_url).set(host="127.0.0.1", port=port)
        _wait_until_ready(process, url.username or "postgres", port)
        yield url.render_as_string(hide_password=False)
    finally:
        # At once; SIGINT would wait for its clients.
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(folder)


def _configure(folder: Path, server_url: str, settings: dict[str, str]) -> Path:
    server = make_url(server_url)
    users = folder / "users.txt"
    users.write_text(f'"{server.username}" "{server.password or ""}"\n')
    lines = {
        "listen_addr": "127.0.0.1",
        "auth_type": "trust",
        "auth_file": str(users),
        "pool_mode": "transaction",
        # So few that every connection is soon somebody else's.
        "default_pool_size": "4",
        "max_client_conn": "200",
        "unix_socket_dir": "",
        **settings,
    }
    file = folder / "pgbouncer.ini"
    file.write_text(
        f"[databases]\n* = host={server.host} port={server.port} user={server.username}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    return file


def _wait_until_ready(process: subprocess.Popen[bytes], user: str, port: int) -> None:
    deadline = time.monotonic() + _START_DEADLINE_SECONDS
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user=user, dbname="postgres", connect_timeout=1).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise PgBouncerMissing(f"PgBouncer did not start: {error}") from error
            time.sleep(0.02)
        else:
            return
