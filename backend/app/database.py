"""The database: the engine, and how requests wait for each other."""

from __future__ import annotations

from sqlalchemy import Engine, func, literal, select
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_outbox import Pooler, listen_engine, worker_engine
from sqlalchemy_outbox.database.sqlite import BUSY_TIMEOUT
from sqlalchemy_outbox.text import AnyText

# Requests wait for each other's rows as long as SQLite's writers wait for their turn; then they answer 503.
_LOCK_TIMEOUT_MS = int(BUSY_TIMEOUT.total_seconds() * 1000)


def create_database_engine(url: str, between: Pooler = Pooler.AUTO) -> Engine:
    """An engine for `Settings.database_url`, for requests and the worker alike; `between` lies before its server."""
    # SQLite has one writer at a time, and lets those that wait starve each other. One connection makes the threads of
    # this process a queue, and leaves the file's busy timeout to other processes.
    options = {"pool_size": 1, "max_overflow": 0} if url.startswith("sqlite") else {}
    return worker_engine(url, pooler=between, server_settings={"lock_timeout": _LOCK_TIMEOUT_MS}, **options)


def create_listen_engine(url: str) -> Engine | None:
    """An engine for `Settings.database_listen_url`."""
    return listen_engine(url) if url else None


def create_sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, expire_on_commit=False)


def lock_name(db: Session, name: str) -> None:
    """Nobody else holds this name until the transaction ends: for what has no row to lock yet.

    Take it before any row, so that two requests never wait for each other. On SQLite the transaction itself
    already keeps every other writer out.
    """
    if db.get_bind().dialect.name == "postgresql":
        db.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(literal(name, AnyText()), 0))))
