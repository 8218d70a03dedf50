"""The database: the engine, and how requests wait for each other."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, func, literal, make_url, select
from sqlalchemy.orm import Session, sessionmaker

from sqlalchemy_outbox import configure_engine
from sqlalchemy_outbox.database import pooler, postgresql
from sqlalchemy_outbox.database.pooler import Pooler
from sqlalchemy_outbox.database.sqlite import BUSY_TIMEOUT
from sqlalchemy_outbox.text import AnyText

# Requests wait for each other's rows as long as SQLite's writers wait for their turn; then they answer 503.
_LOCK_TIMEOUT_MS = int(BUSY_TIMEOUT.total_seconds() * 1000)


def create_database_engine(url: str, between: Pooler = Pooler.AUTO) -> Engine:
    """An engine for `Settings.database_url`; `between` lies before its server.

    Its errors quote no parameters, because those hold addresses.
    """
    if url.startswith("sqlite"):
        # SQLite has one writer at a time, and lets those that wait starve each other. One connection makes the
        # threads of this process a queue, and leaves the file's busy timeout to other processes.
        engine = create_engine(url, hide_parameters=True, pool_size=1, max_overflow=0)
    else:
        engine = _create_postgresql_engine(url, between)
        # A restarted server costs a ping per transaction, and not the first requests after it.
        postgresql.ping_at_checkout(engine)
    configure_engine(engine)
    return engine


def create_listen_engine(url: str) -> Engine | None:
    """An engine for `Settings.database_listen_url`. Its connections are kept by who listens, and by no pool."""
    return _create_postgresql_engine(url, Pooler.AUTO, poolclass=NullPool) if url.startswith("postgresql") else None


def _create_postgresql_engine(url: str, between: Pooler, **options: Any) -> Engine:
    arguments = postgresql.connect_arguments(make_url(url))
    engine = create_engine(url, hide_parameters=True, connect_args=arguments, **options)
    pooler.configure_engine(engine, {"lock_timeout": _LOCK_TIMEOUT_MS}, between)
    return engine


def create_sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, expire_on_commit=False)


def lock_name(db: Session, name: str) -> None:
    """Nobody else holds this name until the transaction ends: for what has no row to lock yet.

    Take it before any row, so that two requests never wait for each other. On SQLite the transaction itself
    already keeps every other writer out.
    """
    if db.get_bind().dialect.name == "postgresql":
        db.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(literal(name, AnyText()), 0))))
