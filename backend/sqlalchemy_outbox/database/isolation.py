"""Whether a connection has transactions at all, and whether the database itself has ended one."""

from __future__ import annotations

from traceback import format_exception_only
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sqlalchemy_outbox.database.driver import driver_connection

_AUTOCOMMIT = "AUTOCOMMIT"
# SQL's class of errors that say: the whole transaction is rolled back, try it again. Deadlocks are among them. And
# PostgreSQL's word for a transaction in which something failed before, so that it can only be rolled back.
_ROLLED_BACK = ("40", "25P02")


def is_autocommit(bind: Engine | Connection) -> bool:
    """Whether each statement commits by itself; of an engine, whether its connections are made so by SQLAlchemy.

    Of a connection this is known once its transaction has begun.
    """
    level = bind.get_execution_options().get("isolation_level")
    # What `create_engine` was given is kept nowhere public.
    level = level or getattr(bind.dialect, "_on_connect_isolation_level", None) or ""
    # SQLAlchemy takes it in any case of letters.
    if level.upper() == _AUTOCOMMIT:
        return True
    return isinstance(bind, Connection) and not bind.invalidated and _is_drivers_autocommit(bind)


def _is_drivers_autocommit(connection: Connection) -> bool:
    """Also where neither engine nor connection was told, but the driver: by connect_args or a listener of the pool."""
    dbapi_connection: Any = connection.connection.dbapi_connection
    # Of PostgreSQL's drivers, and of sqlite3 in Python 3.12 and later.
    if getattr(dbapi_connection, "autocommit", None) is True:
        return True
    # Where sqlite3 begins nothing by itself, a listener may have begun, as `configure_engine`'s does.
    begins_nothing = connection.dialect.name == "sqlite" and dbapi_connection.isolation_level is None
    return begins_nothing and connection.in_transaction() and not driver_connection(connection).in_transaction


def has_rolled_back(error: Exception) -> bool:
    """Whether the error is a serialization failure, a deadlock, or tells of another end of the whole transaction."""
    return sqlstate_of(error).startswith(_ROLLED_BACK)


def sqlstate_of(error: BaseException) -> str:
    """PostgreSQL's code for the error, whatever the driver; empty where it has none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state is None and cause is not None and cause.args and isinstance(fields := cause.args[0], dict):
        # pg8000's.
        state = fields.get("C")
    return state if isinstance(state, str) else ""


def as_sqlalchemys(connection: Connection, error: Exception) -> Exception:
    """A driver's error as SQLAlchemy raises it, so that whoever repeats failed transactions knows it."""
    if isinstance(error, SQLAlchemyError):
        return error
    base = connection.dialect.loaded_dbapi.Error
    return DBAPIError.instance("write of the outbox", None, error, base, dialect=connection.dialect)


def in_words(error: BaseException) -> str:
    """What went wrong, without what a driver's message may quote: its first line names the trouble."""
    # Also of an error that cannot be made text.
    return "".join(format_exception_only(error)).splitlines()[0][:250]
