"""Three PostgreSQL nodes under Debian's Patroni, and the etcd that they agree by, on loopback ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import psycopg

from app.settings import normalise_database_url
from tests.postgres import free_port

T = TypeVar("T")
NODES = ("one", "two", "three")
# As short as Patroni has them: a leader that is gone is replaced after this.
TTL_SECONDS = 20
_DEADLINE_SECONDS = 90
_DEBIANS = Path("/usr/lib/postgresql")
# Patroni wants to write to /dev/shm, which not every machine lets everybody do. Killed tests end what they began.
_AS_NOBODY = (
    *("unshare", "-m", "sh", "-c"),
    "mount -t tmpfs -o mode=1777 tmpfs /dev/shm && "
    'exec setpriv --reuid=nobody --regid=nogroup --clear-groups --pdeathsig TERM "$0" "$@"',
)
_http = build_opener(ProxyHandler({}))


class PatroniMissing(Exception):
    """No Patroni, etcd or PostgreSQL of Debian's on this machine; `apt-get install patroni etcd-server postgresql`."""


@dataclass(slots=True)
class Node:
    """A machine, as far as one can be had here: Patroni, and the PostgreSQL that it runs."""

    name: str
    folder: Path
    port: int
    api_port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = _spawn(["/usr/bin/patroni", str(self.folder / "patroni.json")], self.folder)

    def signal(self, number: signal.Signals) -> None:
        """Of all its processes: none does anything in between."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if number is signal.SIGKILL and self.process is not None:
            self.process.wait()

    def processes(self) -> Iterator[int]:
        """Those that could begin others come first."""
        if self.process is not None and self.process.poll() is None:
            yield self.process.pid
        with suppress(OSError, ValueError):
            yield int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        for environment in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if environment.readlink() == self.folder / "data":
                    yield int(environment.parent.name)


@dataclass(slots=True)
class Patroni:
    nodes: Mapping[str, Node]
    is_synchronous: bool

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes.values())
        return normalise_database_url(f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write")

    def leader(self, besides: str = "") -> Node:
        """Who leads, once that is another one than this, and takes writes."""

        def look() -> Node | None:
            for node in self.nodes.values():
                if node.name != besides and self._takes_writes(node):
                    return node
            return None

        return _eventually(look, "no node leads")

    def settle(self) -> None:
        """Return once both others follow the leader, one of them synchronously if that is asked for."""
        _eventually(lambda: self._is_settled() or None, "nobody follows")

    def switch_over(self) -> Node:
        leader = self.leader()
        body = json.dumps({"leader": leader.name}).encode()
        request = Request(f"http://127.0.0.1:{leader.api_port}/switchover", body, {"Content-Type": "application/json"})
        _http.open(request, timeout=_DEADLINE_SECONDS).read()
        return self.leader(besides=leader.name)

    def _is_settled(self) -> bool:
        """As they have agreed: a standby that follows synchronously may lead once that is written down."""
        leader = self.leader()
        with suppress(URLError, OSError):
            answer = _http.open(f"http://127.0.0.1:{leader.api_port}/cluster", timeout=2).read()
            roles = [member["role"] for member in json.loads(answer)["members"]]
            return self._is_followed(leader) and (not self.is_synchronous or "sync_standby" in roles)
        return False

    def _is_followed(self, leader: Node) -> bool:
        query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = ANY (%s)"
        with suppress(psycopg.Error), _connect(leader) as connection:
            return connection.execute(query, [list(self.nodes)]).fetchone() == (len(self.nodes) - 1,)
        return False

    def _takes_writes(self, node: Node) -> bool:
        with suppress(psycopg.Error), _connect(node) as connection:
            return connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
        return False


@contextmanager
def run_patroni(*, is_synchronous: bool) -> Iterator[Patroni]:
    for needed in ("/usr/bin/patroni", "/usr/bin/etcd"):
        if not Path(needed).exists():
            raise PatroniMissing(PatroniMissing.__doc__)
    binaries = sorted(_DEBIANS.glob("*/bin/postgres"))
    if not binaries:
        raise PatroniMissing(PatroniMissing.__doc__)
    folder = Path(tempfile.mkdtemp(prefix="outbox-patroni-"))
    _give(folder)
    etcd_port = free_port()
    etcd = _run_etcd(folder, etcd_port)
    patroni = Patroni({name: _node(folder, name) for name in NODES}, is_synchronous)
    try:
        for node in patroni.nodes.values():
            configuration = _configuration(node, etcd_port, binaries[-1].parent, is_synchronous=is_synchronous)
            (node.folder / "patroni.json").write_text(json.dumps(configuration))
            node.start()
            # The first one makes the cluster that the others copy.
            patroni.leader()
        patroni.settle()
        yield patroni
    finally:
        for node in patroni.nodes.values():
            node.signal(signal.SIGKILL)
        etcd.kill()
        etcd.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _configuration(node: Node, etcd_port: int, bin_dir: Path, *, is_synchronous: bool) -> dict[str, Any]:
    """What docs/deploying.md shows, besides ports and folders."""
    return {
        "scope": "nerava",
        "name": node.name,
        "restapi": {"listen": f"127.0.0.1:{node.api_port}", "connect_address": f"127.0.0.1:{node.api_port}"},
        "etcd3": {"host": f"127.0.0.1:{etcd_port}"},
        "bootstrap": {
            "dcs": {
                "ttl": TTL_SECONDS,
                "loop_wait": 2,
                "retry_timeout": 5,
                "synchronous_mode": is_synchronous,
                "postgresql": {"use_pg_rewind": True, "parameters": {"wal_log_hints": "on", "fsync": "off"}},
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{node.port}",
            "connect_address": f"127.0.0.1:{node.port}",
            "data_dir": str(node.folder / "data"),
            "bin_dir": str(bin_dir),
            "pgpass": str(node.folder / "pgpass"),
            "authentication": {role: {"username": "postgres"} for role in ("superuser", "replication", "rewind")},
            "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
            "parameters": {"unix_socket_directories": ""},
        },
    }


def _node(parent: Path, name: str) -> Node:
    folder = parent / name
    folder.mkdir()
    _give(folder)
    return Node(name, folder, free_port(), free_port())


def _run_etcd(folder: Path, port: int) -> subprocess.Popen[bytes]:
    url, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
    command = ["/usr/bin/etcd", "--data-dir", str(folder / "etcd"), "--log-level", "error", "--unsafe-no-fsync"]
    command += ["--listen-client-urls", url, "--advertise-client-urls", url]
    command += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
    command += ["--initial-cluster", f"default={peers}"]
    etcd = _spawn(command, folder)

    def is_up() -> bool | None:
        with suppress(URLError, OSError):
            return bool(_http.open(f"{url}/health", timeout=1).read())
        return None

    _eventually(is_up, "etcd did not start")
    return etcd


def _spawn(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as output:
        return subprocess.Popen(
            [*_AS_NOBODY, *command] if os.geteuid() == 0 else command,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _give(folder: Path) -> None:
    """To whom the servers run as: PostgreSQL refuses root."""
    folder.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", "nogroup")


def _connect(node: Node) -> psycopg.Connection:
    url = f"host=127.0.0.1 port={node.port} user=postgres dbname=postgres"
    return psycopg.connect(url, autocommit=True, connect_timeout=2, options="-c statement_timeout=2000")


def _eventually(look: Callable[[], T | None], failure: str) -> T:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while (found := look()) is None:
        assert time.monotonic() < deadline, failure
        time.sleep(0.2)
    return found
