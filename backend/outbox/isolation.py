"""Whether a connection has transactions at all, and whether the database itself has ended one."""

from __future__ import annotations

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

_AUTOCOMMIT = "AUTOCOMMIT"
# SQL's class of errors that say: the whole transaction is rolled back, try it again. Deadlocks are among them.
_ROLLED_BACK = "40"


def is_autocommit(bind: Engine | Connection) -> bool:
    """Whether each statement commits by itself; of an engine, whether its connections are made so by SQLAlchemy."""
    level = bind.get_execution_options().get("isolation_level")
    # What `create_engine` was given is kept nowhere public.
    level = level or getattr(bind.dialect, "_on_connect_isolation_level", None)
    if level is not None or isinstance(bind, Engine) or bind.invalidated:
        return bool(level == _AUTOCOMMIT)
    # psycopg's, and sqlite3's of Python 3.12 and later.
    return getattr(bind.connection.driver_connection, "autocommit", None) is True


def has_rolled_back(error: Exception) -> bool:
    """Whether the error is a serialization failure, a deadlock, or another end of the whole transaction."""
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
