"""What a statement costs PostgreSQL, as EXPLAIN tells it: in scans and buffers, which do not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from psycopg import RawCursor
from sqlalchemy import Engine, text

from instruments.statements import Run, intercept

Sent = tuple[str, Any]
Plan = dict[str, Any]


def execute(engine: Engine, statement: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))


def sent_by(engine: Engine, call: Callable[[], object]) -> list[Sent]:
    """The statements that the call sends to the engine's tables."""
    sent: list[Sent] = []

    def note(sql: str, parameters: Any, run: Run) -> None:
        if "outbox_events" in sql:
            sent.append((sql, parameters))
        run()

    with intercept(engine, note):
        call()
    return sent


def explain(engine: Engine, sent: Sent) -> Plan:
    """How the statement runs now; nothing of it stays."""
    sql, values = sent
    explaining = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"
    with engine.connect() as connection:
        if isinstance(values, list):
            # What goes past SQLAlchemy names its parameters as the server does.
            (rows,) = RawCursor(connection.connection.driver_connection).execute(explaining, values).fetchone()
        else:
            rows = connection.exec_driver_sql(explaining, values).scalar_one()
        connection.rollback()
    plan: Plan = rows[0]["Plan"]
    return plan


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def buffers(plan: Plan) -> int:
    total: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return total
