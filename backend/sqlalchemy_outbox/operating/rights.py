"""What each job needs of PostgreSQL, and no more: its role's rights on the outbox's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from sqlalchemy import Connection, text

from sqlalchemy_outbox.database.driver import qualified_name
from sqlalchemy_outbox.model import Outbox

_ALL = "SELECT, INSERT, UPDATE, DELETE"


class Job(StrEnum):
    APPLICATION = "application"
    WORKER = "worker"
    OPERATOR = "operator"


# By what follows the outbox's name. A row that is locked needs UPDATE.
RIGHTS: Mapping[Job, Mapping[str, str]] = {
    # The erasures are of one that has the key: it looks who was forgotten, and `forget` writes it down.
    Job.APPLICATION: {"": "SELECT, INSERT", "_erasures": "SELECT, INSERT"},
    Job.WORKER: {
        "": _ALL,
        "_leases": _ALL,
        "_waits": _ALL,
        "_gate": "SELECT, INSERT, UPDATE",
        "_workers": _ALL,
        "_deliveries": _ALL,
        "_delivery_events": _ALL,
        "_discarded": "SELECT, UPDATE, DELETE",
        "_audit": "SELECT, UPDATE",
        "_audit_events": "SELECT, DELETE",
        "_figures": _ALL,
        "_counted": "SELECT, INSERT, UPDATE",
        "_closures": _ALL,
        "_subjects": _ALL,
        "_erasures": "SELECT, UPDATE",
    },
    Job.OPERATOR: {
        "": _ALL,
        "_leases": "SELECT",
        "_waits": _ALL,
        "_gate": "SELECT, INSERT, UPDATE",
        "_workers": "SELECT",
        "_deliveries": _ALL,
        "_delivery_events": "SELECT, INSERT, DELETE",
        "_discarded": _ALL,
        "_audit": "SELECT, INSERT, UPDATE",
        "_audit_events": "SELECT, INSERT, DELETE",
        "_ended_sessions": "SELECT, INSERT, DELETE",
        "_figures": "SELECT",
        "_closures": "SELECT, INSERT, UPDATE",
        "_erasures": "SELECT, INSERT",
    },
}
# A delivery's id is drawn before it is written.
SEQUENCE_OF = {Job.WORKER: "_deliveries"}
_LACKS = text("SELECT NOT pg_catalog.has_table_privilege(:table, :right)")
_LACKS_USAGE = text(
    "SELECT NOT pg_catalog.has_sequence_privilege(pg_catalog.pg_get_serial_sequence(:table, 'id'), 'USAGE, UPDATE')"
)
_IS_HIDDEN = text("SELECT pg_catalog.row_security_active(CAST(:table AS regclass))")


def missing_rights(connection: Connection, outbox: Outbox, job: Job) -> Iterator[str]:
    """What the role of the connection lacks for the job, in GRANT's words."""
    for suffix, rights in RIGHTS[job].items():
        table = _name(connection, outbox, suffix)
        for right in rights.split(", "):
            if connection.execute(_LACKS, {"table": table, "right": right}).scalar_one():
                yield f"{right} ON {table}"
    if job in SEQUENCE_OF:
        table = _name(connection, outbox, SEQUENCE_OF[job])
        if connection.execute(_LACKS_USAGE, {"table": table}).scalar_one():
            yield f"USAGE ON SEQUENCE {table}_id_seq"


def hidden_tables(connection: Connection, outbox: Outbox) -> Iterator[str]:
    """Tables of which row-level security shows the role a part only, or nothing."""
    for suffix in RIGHTS[Job.WORKER]:
        table = _name(connection, outbox, suffix)
        if connection.execute(_IS_HIDDEN, {"table": table}).scalar_one():
            yield table


def _name(connection: Connection, outbox: Outbox, suffix: str) -> str:
    metadata = outbox.events.metadata
    key = f"{outbox.events.schema}.{outbox.name}{suffix}" if outbox.events.schema else f"{outbox.name}{suffix}"
    return qualified_name(connection, metadata.tables[key])
