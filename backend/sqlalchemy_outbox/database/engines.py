"""The engine of a worker, made of what an application has: its URL, or an async engine.

A worker's database calls are synchronous. On PostgreSQL it runs best on psycopg, by which it hears of commits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, Engine, NullPool, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from sqlalchemy_outbox.database import sqlite

_PSYCOPG = "postgresql+psycopg"
# What asyncpg's URLs say, in libpq's words.
_SSL = {"true": "require", "false": "disable"}
_LIBPQ_NAMES = {"ssl": "sslmode", "timeout": "connect_timeout"}
_ASYNCPG_ONLY = {
    "command_timeout",
    "direct_tls",
    "max_cacheable_statement_size",
    "max_cached_statement_lifetime",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "server_settings",
    "statement_cache_size",
}
_NO_CACHE = ("prepared_statement_cache_size", "statement_cache_size")


_SEVERAL_HOSTS = re.compile(r"(postgres[^:/]*://)([^@/]*@)?([^@/?,]+(?:,[^@/?,]+)+)((?:[/?].*)?)$")
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(?::(\d+))?$")


class Pooler(StrEnum):
    """What lies between an engine and its server."""

    AUTO = "auto"
    # None, or one that leaves a client its session, as PgBouncer does in session mode.
    NONE = "none"
    TRANSACTION = "transaction"


class DriverMissing(Exception):
    """A worker on PostgreSQL needs psycopg; install hubspot-outbox[postgresql]."""


def worker_engine(
    application: AsyncEngine | URL | str,
    *,
    pooler: Pooler = Pooler.AUTO,
    server_settings: Mapping[str, int] | None = None,
    **options: Any,
) -> Engine:
    """A synchronous engine for a worker, on the database of the application's async engine or URL.

    `pooler` says what lies before a PostgreSQL, and `server_settings` are PostgreSQL's, in milliseconds. What a URL
    does not say, `connect_args` say among the `options`, which are `create_engine`'s. Unless they say otherwise, errors
    quote no parameters: those may hold addresses. Raises DriverMissing for PostgreSQL without psycopg.
    """
    options.setdefault("hide_parameters", True)
    url = sync_url(application.url if isinstance(application, AsyncEngine) else parse_url(application))
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, **options)
        sqlite.configure_engine(engine)
        return engine
    if find_spec("psycopg") is None:
        raise DriverMissing(DriverMissing.__doc__)
    from sqlalchemy_outbox.database import pooler as poolers  # noqa: PLC0415  # They need psycopg.
    from sqlalchemy_outbox.database import postgresql  # noqa: PLC0415

    arguments = postgresql.connect_arguments(url) | options.pop("connect_args", {})
    engine = create_engine(url, connect_args=arguments, **options)
    postgresql.ping_at_checkout(engine)
    poolers.configure_engine(engine, server_settings, pooler)
    return engine


def listen_engine(direct: URL | str) -> Engine | None:
    """An engine by which a worker hears of commits, where its own goes through a pooler; None for SQLite.

    `direct` is a URL of the same database that leads past the pooler. Its connections are kept by who listens.
    """
    url = sync_url(parse_url(direct))
    return None if url.get_backend_name() == "sqlite" else worker_engine(url, poolclass=NullPool)


def parse_url(url: URL | str) -> URL:
    """SQLAlchemy's reading of a URL, also where it names several hosts between commas, as libpq's do."""
    if isinstance(url, str) and (several := _SEVERAL_HOSTS.match(url)) is not None:
        scheme, user, hosts, rest = several.groups()
        pairs = [pair for host in hosts.split(",") if (pair := _HOST.match(host)) is not None]
        named = {
            "host": ",".join(pair[1].strip("[]") for pair in pairs),
            "port": ",".join(pair[2] or "5432" for pair in pairs),
        }
        return make_url(f"{scheme}{user or ''}{rest}").update_query_dict(named)
    return make_url(url)


def sync_url(url: URL) -> URL:
    """The same database by the driver that workers use: psycopg, or Python's sqlite3."""
    if url.drivername.startswith("sqlite"):
        return url.set(drivername="sqlite")
    query: dict[str, str | tuple[str, ...]] = dict(url.query)
    if url.drivername.endswith("+asyncpg"):
        query = _in_libpqs_words(url.query)
    return url.set(drivername=_PSYCOPG, query=query)


def psycopg_engine_like(engine: Engine) -> Engine | None:
    """An engine by which a worker on another driver can hear of commits; None where psycopg is not installed."""
    if find_spec("psycopg") is None:
        return None
    return worker_engine(engine.url, poolclass=NullPool)


def _in_libpqs_words(query: Mapping[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
    found = {_LIBPQ_NAMES.get(name, name): value for name, value in query.items() if name not in _ASYNCPG_ONLY}
    if isinstance(mode := found.get("sslmode"), str):
        found["sslmode"] = _SSL.get(mode.lower(), mode)
    if any(query.get(name) == "0" for name in _NO_CACHE):
        found["prepare_threshold"] = "none"
    return found
