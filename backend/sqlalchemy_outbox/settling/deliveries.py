"""Deliveries are kept: one row for each request that carried events, linked to them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Connection,
    Float,
    Insert,
    Integer,
    Select,
    Text,
    bindparam,
    column,
    func,
    insert,
    select,
)

from sqlalchemy_outbox.clock import DatabaseNow
from sqlalchemy_outbox.database.driver import qualified_name
from sqlalchemy_outbox.database.json_rows import as_parameter, rows_of
from sqlalchemy_outbox.model import Outbox

_TEXT_CHARS_MAX = 2000
_DELIVERY_COLUMNS = (
    column("position", Integer),
    column("seconds_ago", Float),
    column("duration_ms", Integer),
    column("endpoint", Text),
    column("events", Integer),
    column("status", Integer),
    column("category", Text),
    column("correlation_id", Text),
    column("outcome", Text),
    column("error", Text),
    column("traceparent", Text),
)
_LINK_COLUMNS = (column("position", Integer), column("event_id", BigInteger), column("outcome", Text))
_AS_GIVEN = tuple(column.name for column in _DELIVERY_COLUMNS[2:])


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request to the destination: what it came to for all in `outcome`, for each event in `outcomes`, by its `id`.

    `began_at` is on the monotonic clock. `status` is None when no answer came; `category`, `correlation_id` and `error`
    are the destination's words, free of what names a person.
    """

    endpoint: str
    began_at: float
    duration: timedelta
    outcome: str
    outcomes: Mapping[int, str] = field(repr=False)
    status: int | None = None
    category: str | None = None
    correlation_id: str | None = None
    error: str | None = None
    traceparent: str | None = None


def write(connection: Connection, outbox: Outbox, deliveries: Sequence[Delivery]) -> None:
    """Keep the deliveries and their links: by one statement on PostgreSQL, by one for each and one more on SQLite."""
    if not deliveries:
        return
    if connection.dialect.name == "sqlite":
        rows = _as_rows(deliveries)
        ids = [connection.execute(_write_one(outbox), {"rows": as_parameter([row])}).scalar_one() for row in rows]
        links = [link | {"position": ids[link["position"]]} for link in _as_links(deliveries)]
        connection.execute(_link(outbox), {"links": as_parameter(links)})
    else:
        written, linked = _writing(outbox)
        connection.execute(linked.add_cte(written), parameters_of(connection, outbox, deliveries))


def written_beside(statement: Select[Any], outbox: Outbox) -> Select[Any]:
    """The statement, which keeps the deliveries that `parameters_of` says as well. On PostgreSQL."""
    written, linked = _writing(outbox)
    return statement.add_cte(written, linked.cte("linked"))


def parameters_of(connection: Connection, outbox: Outbox, deliveries: Sequence[Delivery]) -> dict[str, str]:
    return {
        "deliveries": as_parameter(_as_rows(deliveries)),
        "links": as_parameter(_as_links(deliveries)),
        "deliveries_table": qualified_name(connection, outbox.records.deliveries),
    }


def _as_rows(deliveries: Sequence[Delivery]) -> list[dict[str, Any]]:
    now = time.monotonic()
    return [
        {
            "position": position,
            "seconds_ago": round(now - it.began_at, 3),
            "duration_ms": it.duration // timedelta(milliseconds=1),
            "endpoint": _bounded(it.endpoint),
            "events": len(it.outcomes),
            "status": it.status,
            "category": _bounded(it.category),
            "correlation_id": _bounded(it.correlation_id),
            "outcome": _bounded(it.outcome),
            "error": _bounded(it.error),
            "traceparent": it.traceparent,
        }
        for position, it in enumerate(deliveries)
    ]


def _as_links(deliveries: Sequence[Delivery]) -> list[dict[str, Any]]:
    return [
        {"position": position, "event_id": event_id, "outcome": _bounded(outcome)}
        for position, it in enumerate(deliveries)
        for event_id, outcome in it.outcomes.items()
    ]


def _bounded(text: str | None) -> str | None:
    return None if text is None else text[:_TEXT_CHARS_MAX]


@lru_cache(maxsize=16)
def _writing(outbox: Outbox) -> tuple[CTE, Insert]:
    """How deliveries are written, and their links, which know of the former."""
    table = outbox.records.deliveries
    rows = rows_of("deliveries", _DELIVERY_COLUMNS, "postgresql")
    # Ids are drawn first, so that the links know them.
    next_id = func.nextval(func.pg_get_serial_sequence(bindparam("deliveries_table", type_=Text), "id"))
    noted = select(next_id.label("id"), rows).select_from(rows).order_by(rows.c.position).cte("noted")
    written = (
        insert(table)
        .from_select(
            ["id", "started_at", *_AS_GIVEN],
            select(noted.c.id, DatabaseNow(-noted.c.seconds_ago), *(noted.c[name] for name in _AS_GIVEN)),
        )
        .cte("written")
    )
    links = rows_of("links", _LINK_COLUMNS, "postgresql")
    linked = select(links.c.event_id, noted.c.id, links.c.outcome).join(noted, noted.c.position == links.c.position)
    return written, _insert_links(outbox, linked)


@lru_cache(maxsize=16)
def _write_one(outbox: Outbox) -> Any:
    table = outbox.records.deliveries
    rows = rows_of("rows", _DELIVERY_COLUMNS, "sqlite")
    values = select(DatabaseNow(-rows.c.seconds_ago), *(rows.c[name] for name in _AS_GIVEN))
    return insert(table).from_select(["started_at", *_AS_GIVEN], values).returning(table.c.id)


@lru_cache(maxsize=16)
def _link(outbox: Outbox) -> Insert:
    links = rows_of("links", _LINK_COLUMNS, "sqlite")
    return _insert_links(outbox, select(links.c.event_id, links.c.position, links.c.outcome))


def _insert_links(outbox: Outbox, links: Any) -> Insert:
    return insert(outbox.records.delivery_events).from_select(["event_id", "delivery_id", "outcome"], links)
