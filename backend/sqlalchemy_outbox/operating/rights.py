"""What each job needs of PostgreSQL, and no more: its role's rights on the outbox's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from sqlalchemy import Connection, text

from sqlalchemy_outbox.database.driver import qualified_name
from sqlalchemy_outbox.model import Outbox

# PostgreSQL's code for what a role may not do.
INSUFFICIENT_PRIVILEGE = "42501"
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
_IS_SECURED = text("SELECT pg_catalog.row_security_active(CAST(:table AS regclass))")
# As policies have them.
_COMMANDS: Mapping[str, str] = {"SELECT": "r", "INSERT": "a", "UPDATE": "w", "DELETE": "d"}
# Whether no policy lets the role do so to every row, or one takes rows away again.
_IS_KEPT_BACK = text("""
SELECT pg_catalog.has_table_privilege(:table, :right)
       AND (pg_catalog.count(*) FILTER (WHERE polpermissive AND is_of_all) = 0
            OR pg_catalog.count(*) FILTER (WHERE NOT polpermissive AND NOT is_of_all) > 0)
FROM (
    SELECT polpermissive, CASE CAST(:right AS text)
               WHEN 'INSERT' THEN COALESCE(written, seen) = 'true'
               WHEN 'UPDATE' THEN seen = 'true' AND COALESCE(written, 'true') = 'true'
               ELSE seen = 'true'
           END AS is_of_all
    FROM (
        SELECT polpermissive, pg_catalog.pg_get_expr(polqual, polrelid) AS seen,
               pg_catalog.pg_get_expr(polwithcheck, polrelid) AS written
        FROM pg_catalog.pg_policy
        WHERE polrelid = CAST(:table AS regclass) AND polcmd IN ('*', :command)
          AND EXISTS (SELECT FROM pg_catalog.unnest(polroles) AS role
                      WHERE CASE role WHEN 0 THEN true ELSE pg_catalog.pg_has_role(role, 'USAGE') END)
    ) AS policies
) AS judged
""")
_SCHEMA = text(
    "SELECT n.nspname, pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS is_usable FROM pg_catalog.pg_class AS c "
    "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE c.relname = :table AND c.relkind IN ('r', 'p') AND n.nspname = COALESCE(:schema, n.nspname) "
    "ORDER BY is_usable DESC LIMIT 1"
)


def unusable_schema(connection: Connection, outbox: Outbox) -> str | None:
    """The schema that has the outbox, if the role may not look into it; PostgreSQL then knows of no such table."""
    if connection.dialect.name != "postgresql":
        return None
    found = connection.execute(_SCHEMA, {"table": outbox.name, "schema": outbox.events.schema}).first()
    return None if found is None or found.is_usable else str(found.nspname)


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


def hidden_rows(connection: Connection, outbox: Outbox) -> Iterator[str]:
    """What the role may do to some rows only, or to none, because of row-level security, in GRANT's words."""
    for table in (qualified_name(connection, table) for table in outbox.tables):
        if connection.execute(_IS_SECURED, {"table": table}).scalar_one():
            kept_back = [right for right in _ALL.split(", ") if _is_kept_back(connection, table, right)]
            if kept_back:
                yield f"{', '.join(kept_back)} ON {table}"


def _is_kept_back(connection: Connection, table: str, right: str) -> bool:
    parameters = {"table": table, "right": right, "command": _COMMANDS[right]}
    return bool(connection.execute(_IS_KEPT_BACK, parameters).scalar_one())


def _name(connection: Connection, outbox: Outbox, suffix: str) -> str:
    metadata = outbox.events.metadata
    key = f"{outbox.events.schema}.{outbox.name}{suffix}" if outbox.events.schema else f"{outbox.name}{suffix}"
    return qualified_name(connection, metadata.tables[key])
