"""A server that was read-only for a while, as a provider's is whose disk is full: sessions of that time stay read-only.

So where a session is found to be read-only, its connection is given up, and with it the pool's others of its time.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext

from sqlalchemy_outbox.database.isolation import sqlstate_of

READ_ONLY = "25006"


def give_up_read_only_connections(engine: Engine) -> None:
    """Have the engine's pool replace connections that cannot write. The error is raised all the same."""
    if engine.dialect.name == "postgresql" and not event.contains(engine, "handle_error", _give_up):
        event.listen(engine, "handle_error", _give_up)


def is_read_only(error: BaseException) -> bool:
    """Whether the database refused to write because it, or the session, is read-only."""
    return sqlstate_of(error) == READ_ONLY


def replace_at_next_use(connection: Connection) -> None:
    """Where a driver was asked without SQLAlchemy in between: this connection, and its pool's others of its time."""
    # SQLAlchemy has no public way to say so of a pool without closing a connection that is in use.
    connection.engine.pool._invalidate(connection.connection, _checkin=False)


def _give_up(context: ExceptionContext) -> None:
    connection = context.connection
    # Whoever asked for it has what was asked for.
    is_asked_for = connection is not None and connection.get_execution_options().get("postgresql_readonly")
    if is_read_only(context.original_exception) and not is_asked_for:
        context.is_disconnect = True
