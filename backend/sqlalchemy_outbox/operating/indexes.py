"""The indexes as PostgreSQL tells them. Alembic compares no predicates, so one that holds too little goes unseen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, text

from sqlalchemy_outbox.database.driver import qualified_name
from sqlalchemy_outbox.model import Outbox

# What follows USING in `pg_indexes.indexdef`, without "btree"; a test compares it with what the migrations make.
DEFINITIONS: Mapping[str, str] = {
    "{0}_pkey": "(id)",
    "uq_{0}_event_id": "(event_id)",
    "ix_{0}_open": "(id) WHERE ((processed_at IS NULL) AND (failed_at IS NULL) AND (waits_for IS NULL))",
    "ix_{0}_open_subject": "(subject, id) WHERE (COALESCE(processed_at, failed_at) IS NULL)",
    "ix_{0}_backing_off": (
        "(available_at) WHERE ((COALESCE(failed_at, processed_at) IS NULL) AND (available_at > created_at))"
    ),
    "ix_{0}_below_floor": (
        "(subject, id) WHERE ((COALESCE(failed_at, processed_at) IS NULL) "
        "AND ((retried_at IS NOT NULL) OR (waits_for IS NOT NULL)))"
    ),
    "ix_{0}_set_apart": "(id) WHERE ((COALESCE(failed_at, processed_at) IS NULL) AND (waits_for IS NOT NULL))",
    "ix_{0}_waiting": "(waits_for, available_at) WHERE (waits_for IS NOT NULL)",
    "ix_{0}_failed": "(subject, id) WHERE (failed_at IS NOT NULL)",
    "ix_{0}_failed_id": "(id) WHERE (failed_at IS NOT NULL)",
    "ix_{0}_failed_reason": "(failure_reason, id) WHERE (failed_at IS NOT NULL)",
    "ix_{0}_delivered": "(processed_at) WHERE (processed_at IS NOT NULL)",
    "ix_{0}_delivered_subject": "(subject, id) WHERE (processed_at IS NOT NULL)",
    "ix_{0}_leases_until": "(until)",
    "{0}_leases_pkey": "(token)",
    "{0}_waits_pkey": "(key)",
    "{0}_gate_pkey": "(id)",
    "{0}_workers_pkey": "(id)",
    "ix_{0}_deliveries_started": "(started_at)",
    "{0}_deliveries_pkey": "(id)",
    "ix_{0}_delivery_events_delivery": "(delivery_id)",
    "{0}_delivery_events_pkey": "(event_id, delivery_id)",
    "ix_{0}_discarded_at": "(discarded_at)",
    "ix_{0}_discarded_in_doubt": "(subject, id) WHERE (in_doubt_at IS NOT NULL)",
    "{0}_discarded_pkey": "(id)",
    "uq_{0}_discarded_event_id": "(event_id)",
    "{0}_audit_pkey": "(id)",
    "{0}_audit_events_pkey": "(event_id, audit_id)",
    "{0}_ended_sessions_pkey": "(session)",
    "{0}_figures_pkey": "(minutes, at, event_type)",
    "{0}_counted_pkey": "(id)",
    "{0}_closures_pkey": "(began_at)",
    "{0}_subjects_pkey": "(subject)",
    "{0}_erasures_pkey": "(id)",
    "uq_{0}_erasures_event_id": "(event_id)",
    "ix_{0}_erasures_name": "(name)",
    "ix_{0}_erasures_open": "(id) WHERE (cleaned_at IS NULL)",
}
_BTREE = "USING btree "
# How it is stored makes no difference to what is found by it.
_STORAGE = re.compile(r" WITH \([^)]*\)")
_FOUND = text(
    "SELECT c.relname, pg_catalog.pg_get_indexdef(c.oid), i.indisvalid, i.indisunique, indexed.relname "
    "FROM pg_catalog.pg_class AS events "
    "JOIN pg_catalog.pg_class AS c ON c.relnamespace = events.relnamespace "
    "JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid "
    "JOIN pg_catalog.pg_class AS indexed ON indexed.oid = i.indrelid "
    "WHERE events.oid = pg_catalog.to_regclass(:events) AND c.relname = ANY (:names)"
)


def wrong_indexes(connection: Connection, outbox: Outbox) -> Iterator[str]:
    """What differs from what the outbox's statements rely on, in words; nothing on other databases than PostgreSQL."""
    if connection.dialect.name != "postgresql":
        return
    expected = {name.format(outbox.name): definition for name, definition in DEFINITIONS.items()}
    parameters = {"events": qualified_name(connection, outbox.events), "names": list(expected)}
    found = {row[0]: row[1:] for row in connection.execute(_FOUND, parameters)}
    tables = {table.name for table in outbox.tables}
    for name, definition in expected.items():
        if name not in found:
            yield f"{name} is missing"
            continue
        there, is_valid, is_unique, table = found[name]
        if table not in tables:
            yield f"{name} is of another table"
        elif not is_valid:
            yield f"{name} is invalid"
        elif is_unique is not _is_unique(name):
            yield f"{name} is {'unique' if is_unique else 'not unique'}"
        elif (actual := _definition(there)) != definition:
            yield f"{name} is {actual or there} and not {definition}"


def _is_unique(name: str) -> bool:
    return name.startswith("uq_") or name.endswith("_pkey")


def _definition(there: str) -> str:
    """Empty of another kind of index. Quotes are there or not as a setting wants them."""
    return _STORAGE.sub("", there.replace('"', "").partition(_BTREE)[2])
