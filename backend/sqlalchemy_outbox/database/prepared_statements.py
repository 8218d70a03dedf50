"""Statements that a session of PostgreSQL keeps prepared, and neither parses nor plans again. On psycopg.

    untold ─it is the process that it was said to be─▶ own ─as often as psycopg would wait─▶ PREPARE ─▶ EXECUTE
               └─ it is not: a pooler is between ─▶ plain ◀─ what it keeps is not what we know ───────────┘

They are prepared by SQL, in the one query of a write. A name is made of its statement's text, so it means the same in
every session, and one that does not know it says so. What is known of a session is forgotten with its connection.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Connection

from sqlalchemy_outbox.database.driver import ServerStatement, driver_connection
from sqlalchemy_outbox.database.isolation import sqlstate_of

# In a connection's `info`, once it is known: whether a pooler gives the session to others after each transaction.
IS_POOLED = "outbox.is_pooled"
# Other schemas may come before the system's.
PROCESS = "SELECT pg_catalog.pg_backend_pid()"
# Executions of a script until it is prepared anew. A plan for a table that was empty reads all of it, 0.9 ms for 15,000
# rows, and nothing but the next VACUUM or ANALYZE would end that.
EXECUTIONS_MAX = 250
# Scripts that a session keeps. An outbox may have ten, which take 0.6 MB of the server's memory.
SCRIPTS_MAX = 20
# The session does not know the name; columns have other types than when it was prepared, which take a literal, and not
# a value of the old type; there is no PL/pgSQL, or no right to it.
_OUT_OF_STEP = ("26000", "0A000", "42804", "42704", "42501")


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One that is sent as it is, with psycopg's placeholders, or prepared by its name and executed."""

    plain: str
    name: str
    prepare: str
    execute: str


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """Statements that are sent together: as they are, as they are and then prepared, or prepared before."""

    plain: str
    prepare: str
    execute: str


@lru_cache(maxsize=512)
def statement_of(plain: str, server: ServerStatement) -> Statement:
    name = f"outbox_{hashlib.sha256(server.sql.encode()).hexdigest()[:32]}"
    # psycopg reads two percent signs as one.
    prepare = f"PREPARE {name} AS {server.sql.replace('%', '%%')}"
    values = ", ".join(f"%({value})s" for value in server.names)
    return Statement(plain, name, prepare, f"EXECUTE {name}({values})" if values else f"EXECUTE {name}")


@lru_cache(maxsize=512)
def script_of(*statements: Statement) -> Script:
    """PL/pgSQL prepares: PREPARE in a query of several statements would keep that query's text, values and all."""
    plain = "; ".join(each.plain for each in statements)
    prepare = " ".join(
        f"IF EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE name = '{each.name}') "
        f"THEN EXECUTE 'DEALLOCATE {each.name}'; END IF; EXECUTE ${each.name}${each.prepare}${each.name}$;"
        for each in statements
    )
    execute = "; ".join(each.execute for each in statements)
    return Script(plain, f"{plain}; DO $outbox$BEGIN {prepare} END$outbox$", execute)


class _Witness(NamedTuple):
    """Of what psycopg prepares: how many statements it ever has, and the last one's key and name if it has it still."""

    total: int
    key: object
    name: object


@dataclass(slots=True)
class ServerSession:
    """What is known of a connection's session.

    `is_own`: no pooler gives it to others; None until it has said so. `threshold`: after how many uses psycopg prepares
    a statement. `writes`: how often each script was sent; where that is above the threshold, it is prepared.
    """

    is_own: bool | None
    threshold: int = 0
    witness: _Witness = field(default=_Witness(0, None, None))
    writes: dict[Script, int] = field(default_factory=dict)

    def text_of(self, sent: Script) -> str:
        """One of the script's texts, which is to be sent now."""
        writes = self.writes.get(sent, 0)
        if not self._may_keep(sent) or writes < self.threshold:
            return sent.plain
        return sent.execute if writes > self.threshold else sent.prepare

    def note_sent(self, sent: Script, text: str) -> None:
        if not self._may_keep(sent):
            return
        writes = self.writes.get(sent, 0) + 1
        if text is sent.plain or writes > self.threshold + EXECUTIONS_MAX:
            writes = min(writes, self.threshold)
        self.writes[sent] = writes

    def _may_keep(self, sent: Script) -> bool:
        return bool(self.is_own) and (sent in self.writes or len(self.writes) < SCRIPTS_MAX)

    def give_up(self) -> None:
        """Send everything as it is from now on."""
        self.is_own = False
        self.writes.clear()


_sessions: WeakKeyDictionary[Any, ServerSession] = WeakKeyDictionary()


def server_session_of(connection: Connection) -> ServerSession:
    driver = driver_connection(connection)
    if (session := _sessions.get(driver)) is None:
        session = _sessions[driver] = _begin_session(connection, driver)
    elif session.is_own:
        if _may_have_dropped(driver, session.witness):
            session.writes.clear()
        session.witness = _witness(driver)
    return session


def _begin_session(connection: Connection, driver: Any) -> ServerSession:
    if driver.prepare_threshold is None:
        # Whoever tells psycopg to prepare nothing has a reason.
        return ServerSession(is_own=False)
    try:
        witness = _witness(driver)
    except AttributeError:
        return ServerSession(is_own=False)
    is_pooled = connection.info.get(IS_POOLED)
    return ServerSession(None if is_pooled is None else not is_pooled, driver.prepare_threshold, witness)


def _witness(driver: Any) -> _Witness:
    prepared = driver._prepared
    key = next(reversed(prepared._names), None)
    return _Witness(prepared._prepared_idx, key, prepared._names.get(key))


def _may_have_dropped(driver: Any, witness: _Witness) -> bool:
    """Whether psycopg may have dropped all statements since, by DEALLOCATE ALL: after a ROLLBACK, a DROP, an ALTER.

    It has no public word for that.
    """
    prepared = driver._prepared
    if witness.name is None:
        return bool(prepared._prepared_idx != witness.total)
    return bool(prepared._names.get(witness.key) != witness.name)


def note_process(connection: Connection, session: ServerSession, answer: bytes | None) -> None:
    """Take the session's answer to PROCESS: a pooler tells a client of another process, or of none."""
    session.is_own = answer == b"%d" % driver_connection(connection).info.backend_pid


def is_out_of_step(error: Exception) -> bool:
    """Whether a statement failed because it was prepared, or is not."""
    return sqlstate_of(error) in _OUT_OF_STEP
