"""What every measurement stands on: the server, fresh databases, how many rounds, and a line for each."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, create_engine, make_url, text

from bench.peers.client import Peer, peer_versions
from bench.table import METADATA
from sqlalchemy_outbox.database.sqlite import configure_engine
from tests.postgres import run_postgres

ROUNDS = 9
QUICK_ROUNDS = 3
_DURABILITY = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")


@dataclass(frozen=True, slots=True)
class Ground:
    """`server` is the URL of a PostgreSQL without a database name."""

    server: str
    is_quick: bool = False
    began_at: float = field(default_factory=time.monotonic)

    @property
    def rounds(self) -> range:
        return range(1, 1 + (QUICK_ROUNDS if self.is_quick else ROUNDS))

    def size(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full

    def say(self, words: str) -> None:
        print(f"{time.monotonic() - self.began_at:7.1f} s  {words}", flush=True)

    @contextmanager
    def database(self) -> Iterator[Engine]:
        """An engine over a fresh database that has the outbox's tables and one of a business."""
        with self._database() as url:
            engine = create_engine(url)
            METADATA.create_all(engine)
            yield engine
            engine.dispose()

    @contextmanager
    def peer(self, module: str) -> Iterator[Peer]:
        """A peer in a process of its own environment, on a fresh database of the same server."""
        with self._database() as url, Peer.start(module, url) as peer:
            yield peer

    @contextmanager
    def _database(self) -> Iterator[str]:
        name = f"bench_{uuid4().hex[:12]}"
        execute(f"{self.server}/postgres", f"CREATE DATABASE {name}")
        try:
            yield f"{self.server}/{name}"
        finally:
            execute(f"{self.server}/postgres", f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def server() -> Iterator[str]:
    """A PostgreSQL with real durability; or the one that TEST_DATABASE_URL names, as it is."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield make_url(url).set(drivername="postgresql+psycopg", database=None).render_as_string(hide_password=False)
        return
    with run_postgres(is_durable=True) as url:
        yield url


def sqlite_engine(file: Path) -> Engine:
    engine = create_engine(f"sqlite:///{file}")
    configure_engine(engine)
    METADATA.create_all(engine)
    return engine


def execute(url: str, *statements: str) -> None:
    """Run statements that cannot run in a transaction."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def describe(ground: Ground) -> dict[str, str]:
    """Machine, versions and durability: what the figures hold for."""
    engine = create_engine(f"{ground.server}/postgres")
    with engine.connect() as connection:
        postgres = connection.execute(text("SHOW server_version")).scalar_one()
        durability = [f"{it} {connection.execute(text(f'SHOW {it}')).scalar_one()}" for it in _DURABILITY]
    engine.dispose()
    ours = ", ".join(f"{it} {version(it)}" for it in ("sqlalchemy", "psycopg"))
    return {
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, PostgreSQL {postgres}, {ours}",
        "peers": ", ".join(f"{name} {it}" for name, it in peer_versions().items()),
        "durability": ", ".join(durability) + "; everything else as PostgreSQL comes",
        "size": "quick: fewer rows and rounds, for development" if ground.is_quick else f"full: {ROUNDS} rounds",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """The commit that is measured, and whether the code differs from it."""
    try:
        commit = subprocess.check_output(["git", "log", "-1", "--format=%h %s"], text=True).strip()
        changes = subprocess.check_output(["git", "status", "--porcelain", "sqlalchemy_outbox"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} (with uncommitted changes)" if changes else commit
