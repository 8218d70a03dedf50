"""The outbox that is measured, a business table beside it, and events by the hundred thousand."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import Column, Connection, Engine, Insert, Integer, MetaData, Table, Text, func, insert, select, text

from sqlalchemy_outbox.model import define_outbox

METADATA = MetaData()
OUTBOX = define_outbox(METADATA)
# What a business transaction writes: one row.
ORDERS = Table("orders", METADATA, Column("id", Integer, primary_key=True), Column("item", Text, nullable=False))

EVENT_TYPE = "measured"
# As long as Nerava's payloads are.
PAYLOAD = {"user_id": "7b1f8f6e-6f0c-4c56-9a55-0d0f3c7f1a11", "amount": 120, "earned_at": "2026-11-24T06:40:02.123Z"}
_PAYLOAD_SQL = '{"user_id":"7b1f8f6e-6f0c-4c56-9a55-0d0f3c7f1a11","amount":120,"earned_at":"2026-11-24T06:40:02.123Z"}'

_NUMBERS = {
    "postgresql": "generate_series(1, :events) AS numbers(n)",
    "sqlite": (
        "(WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < :events) "
        "SELECT n FROM counted) AS numbers"
    ),
}
# One instant for a row: an event that is due later than it was enqueued counts as pushed back.
_NOW = {"postgresql": "statement_timestamp()", "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"}
_UUID = {
    "postgresql": "gen_random_uuid()",
    "sqlite": (
        "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8' || "
        "substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
    ),
}


def insert_event(subject: str, payload: str) -> Insert:
    """An event put into the table by hand."""
    now = func.statement_timestamp()
    return insert(OUTBOX.events).values(
        event_id=uuid4(), event_type=EVENT_TYPE, subject=subject, payload=payload, created_at=now, available_at=now
    )


def load(
    engine: Engine,
    events: int,
    subjects: int,
    *,
    are_delivered: bool = False,
    prefix: str = "driver",
    payload: str = _PAYLOAD_SQL,
) -> None:
    """Add so many events, their subjects taking turns; due at once, or delivered already."""
    dialect = engine.dialect.name
    now = _NOW[dialect]
    statement = text(
        "INSERT INTO outbox_events "
        "(event_id, event_type, subject, payload, created_at, available_at, processed_at) "
        f"SELECT {_UUID[dialect]}, :type, :prefix || '-' || (n % :subjects), :payload, {now}, {now}, "
        f"{now if are_delivered else 'NULL'} FROM {_NUMBERS[dialect]} ORDER BY n"
    )
    parameters = {
        "events": events,
        "subjects": subjects,
        "type": EVENT_TYPE,
        "payload": payload,
        "prefix": prefix,
    }
    with engine.begin() as connection:
        connection.execute(statement, parameters)


def reload(engine: Engine, events: int, subjects: int) -> None:
    """Leave these events and nothing else, in a table without a past."""
    with engine.begin() as connection:
        empty(connection)
    load(engine, events, subjects)
    vacuum(engine)


def empty(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(OUTBOX.events.delete())
    else:
        connection.execute(text("TRUNCATE outbox_events"))


def vacuum(engine: Engine) -> None:
    """Statistics as they are, and no work left to autovacuum that would fall on one contender alone."""
    if engine.dialect.name == "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE) outbox_events, outbox_events_leases"))
        connection.execute(text("CHECKPOINT"))


def count_open(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(OUTBOX.events).where(OUTBOX.is_open())).scalar_one()
