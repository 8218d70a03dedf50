"""What an operator looks at costs no more in a large outbox: by index, page by page, and from where a page ended.

The long form, with a million events, is in `tests/soak`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, create_engine, text

from sqlalchemy_outbox import operations
from sqlalchemy_outbox.housekeeping.figures import count_enqueued
from sqlalchemy_outbox.housekeeping.purge import Purge
from sqlalchemy_outbox.model import Outbox, State
from sqlalchemy_outbox.operating import moves
from sqlalchemy_outbox.operations import EventFilter, EventIds, Range
from tests.outbox.conftest import OUTBOX
from tests.outbox.plans import buffers, execute, explain, nodes, sent_by
from tests.outbox.queue import TYPES

EVENTS = 100_000
# Of a page of 50: its rows may lie in as many blocks, each found by a few blocks of an index; three such looks at most.
PAGE_BUFFERS_MAX = 600
# Of a year's or a week's figures; each block is read once.
SERIES_BUFFERS_MAX = 2_000
OLD = timedelta(hours=1)

Call = Callable[[Engine], object]
DEEP = [EventFilter(), *(EventFilter(it) for it in State)]


def fill(engine: Engine, events: int) -> None:
    """In a hundred events two are failed, two pending, and the rest delivered; each subject has twenty."""
    with engine.begin() as connection:
        for statement in _FILL:
            connection.execute(text(statement), {"events": events, "type": TYPES[0]})
    execute(engine, "VACUUM ANALYZE")


_FILL = (
    "INSERT INTO outbox_events (event_id, event_type, subject, payload, created_at, available_at, processed_at, "
    "failed_at, attempt_count, last_error, failure_reason) "
    "SELECT gen_random_uuid(), :type || CASE n % 5 WHEN 0 THEN '' ELSE n % 5 || '' END, "
    "'driver-' || n % (:events / 20), '{}', at, at, CASE WHEN n % 100 > 3 THEN at END, "
    "CASE WHEN n % 100 < 2 THEN at END, CASE WHEN n % 100 < 2 THEN 3 ELSE 0 END, "
    "CASE WHEN n % 100 < 2 THEN 'reason ' || n END, CASE WHEN n % 100 < 2 THEN 'reason ' || n % 7 END "
    "FROM (SELECT n, now() - (:events - n) * interval '1 second' AS at FROM generate_series(1, :events) n) numbers",
    "WITH claimed AS (UPDATE outbox_events SET claim_token = 'token' "
    "WHERE id IN (SELECT id FROM outbox_events WHERE processed_at IS NULL AND failed_at IS NULL LIMIT 100) "
    "RETURNING id) INSERT INTO outbox_events_leases (token, until, event_ids) "
    "SELECT 'token', now() + interval '1 minute', json_agg(id) FROM claimed",
    "INSERT INTO outbox_events_deliveries (started_at, duration_ms, endpoint, events, status, outcome) "
    "SELECT now() - (:events / 10 - n) * interval '10 seconds', 100, 'upsert', 10, 200, 'delivered' "
    "FROM generate_series(1, :events / 10) n",
    "INSERT INTO outbox_events_delivery_events (event_id, delivery_id, outcome) "
    "SELECT n, (n + 9) / 10, 'delivered' FROM generate_series(1, :events) n",
    "INSERT INTO outbox_events_audit (at, by, action, count, detail) "
    "SELECT now(), 'cli:ada', 'retry', 1, '{}' FROM generate_series(1, :events / 20) n",
    "INSERT INTO outbox_events_audit_events (event_id, audit_id) SELECT n, n FROM generate_series(1, :events / 20) n",
    "INSERT INTO outbox_events_discarded (id, event_id, event_type, subject, payload, created_at, available_at, "
    "attempt_count, dry_run, discarded_at, discarded_by, reason) "
    "SELECT :events + n, gen_random_uuid(), :type, 'driver-' || n, '{}', now(), now(), 3, false, now(), 'ada', 'none' "
    "FROM generate_series(1, :events / 100) n",
    # A year of days and hours and a week of minutes, of all types together and of two.
    "INSERT INTO outbox_events_figures (minutes, at, event_type, delivered) "
    "SELECT minutes, date_trunc('hour', now()) - n * minutes * interval '1 minute', type, n "
    "FROM (VALUES (1, 10080), (60, 8760), (1440, 365)) AS spans (minutes, count), generate_series(0, count) n, "
    "unnest(ARRAY['', :type, 'other']) AS type",
    "INSERT INTO outbox_events_closures (began_at, ended_at, state) "
    "SELECT now() - n * interval '2 hours', now() - n * interval '2 hours' + interval '1 minute', 'throttled' "
    "FROM generate_series(1, 4000) n",
    "INSERT INTO outbox_events_counted (id, up_to, at) SELECT 1, :events - 1000, now() - interval '1 hour'",
    "INSERT INTO outbox_events_erasures "
    "(name, key_name, event_id, way, reason, forgotten_at, look_at, erased_at, cleaned_at) "
    "SELECT 'name-' || n, 'key', gen_random_uuid(), 'erase', 'asked', now(), now(), now(), now() "
    "FROM generate_series(1, :events / 20) n",
)


def known_event(engine: Engine) -> UUID:
    (summary,) = operations.find_events(engine, OUTBOX, EventFilter(State.FAILED), limit=1)
    return summary.event_id


def find(filter_: EventFilter, before: int | None = None) -> Call:
    return lambda engine: operations.find_events(engine, OUTBOX, filter_, before=before)


def of_a_span(state: State | None = None) -> EventFilter:
    """An hour in the middle of what `fill` wrote, a second apart."""
    middle = datetime.now(UTC) - timedelta(seconds=EVENTS / 2)
    return EventFilter(state, since=middle, until=middle + timedelta(hours=1))


def in_transaction(call: Callable[[Connection, Outbox], object]) -> Call:
    """The call's statements, undone."""

    def run(engine: Engine) -> None:
        with engine.connect() as connection:
            call(connection, OUTBOX)
            connection.rollback()

    return run


def choose(connection: Connection, outbox: Outbox) -> list[int]:
    selection = EventFilter(reason="reason 3")
    return moves.choose_failed(connection, outbox, selection, TYPES, after=EVENTS // 2, limit=100)


PAGES: dict[str, Call] = {
    "all": find(EventFilter()),
    **{str(it): find(EventFilter(it)) for it in State},
    "of a type": find(EventFilter(event_type=TYPES[0])),
    "of a subject": find(EventFilter(subject="driver-7")),
    "failed of a subject": find(EventFilter(State.FAILED, subject="driver-0")),
    "pending of a subject": find(EventFilter(State.PENDING, subject="driver-2")),
    "of a span": lambda engine: find(of_a_span())(engine),
    "failed in a span": lambda engine: find(of_a_span(State.FAILED))(engine),
    "queue of a subject": lambda engine: operations.read_queue(engine, OUTBOX, "driver-2"),
    "old and failed": find(EventFilter(State.FAILED, older_than=OLD)),
    "events of a subject": lambda engine: operations.events_of(engine, OUTBOX, "driver-7"),
    "events by id": lambda engine: operations.read_events(engine, OUTBOX, [known_event(engine), uuid4()]),
    "history": lambda engine: operations.read_history(engine, OUTBOX, known_event(engine)),
    "audit": lambda engine: operations.read_audit(engine, OUTBOX),
    "certificates": lambda engine: operations.read_certificates(engine, OUTBOX, limit=50),
    "certificate": lambda engine: operations.read_certificates(engine, OUTBOX, "name-7"),
    "count by id": lambda engine: operations.count(engine, OUTBOX, EventIds(frozenset([known_event(engine)])), TYPES),
}
COUNTS: dict[str, Call] = {
    # By its index as well; and yet PostgreSQL now and then sorts all the events of a reason rather than walk them.
    "of a reason": find(EventFilter(reason="reason 3")),
    "all, counted": lambda engine: operations.count_found(engine, OUTBOX, EventFilter()),
    "span, counted": lambda engine: operations.count_found(engine, OUTBOX, of_a_span()),
    "status": lambda engine: operations.status(engine, OUTBOX),
    "snapshot": lambda engine: operations.snapshot(engine, OUTBOX),
    **{
        f"series of {range_}": lambda engine, range_=range_: operations.read_series(engine, OUTBOX, range_)
        for range_ in Range
    },
    "workers": lambda engine: operations.read_workers(engine, OUTBOX),
    "figures": in_transaction(lambda connection, outbox: count_enqueued(connection, outbox, TYPES, 2**62)),
    "reasons": lambda engine: operations.failure_reasons(engine, OUTBOX),
    "count of a reason": lambda engine: operations.count(engine, OUTBOX, EventFilter(reason="reason 3"), TYPES),
    "count of all failed": lambda engine: operations.count(engine, OUTBOX, EventFilter()),
    "choose": in_transaction(choose),
    "retry": in_transaction(lambda connection, outbox: moves.retry_failed(connection, outbox, [1, 100, 101, 200])),
    "discard": in_transaction(
        lambda connection, outbox: moves.discard_failed(connection, outbox, [1, 100], by="ada", reason="none")
    ),
    "purge": in_transaction(lambda connection, outbox: Purge(outbox, OLD, at_once=100).step(connection)),
}


def cost_of(engine: Engine, call: Call) -> int:
    """The buffers that the dearest statement of the call needs; none may scan a table, save for those of a few rows."""
    costs = []
    few_rows = {f"outbox_events_{name}" for name in ("gate", "leases", "waits", "workers", "counted")}
    if engine.dialect.server_version_info < (17,):
        # It looks into an index once for each of many ids, so a table of 5,000 rows is cheaper read whole.
        few_rows.add("outbox_events_audit_events")
    for sent in sent_by(engine, lambda: call(engine)):
        plan = explain(engine, sent)
        scanned = {it["Relation Name"] for it in nodes(plan) if it["Node Type"] == "Seq Scan"}
        assert scanned <= few_rows, sent[0]
        costs.append(buffers(plan))
    return max(costs)


def assert_read_by_index(engine: Engine, events: int) -> None:
    costs = {name: cost_of(engine, call) for name, call in (PAGES | COUNTS).items()}
    assert {name: cost for name, cost in costs.items() if name in PAGES and cost > PAGE_BUFFERS_MAX} == {}
    assert {name: cost for name, cost in costs.items() if "series" in name and cost > SERIES_BUFFERS_MAX} == {}
    for filter_ in DEEP:
        first, deep = (cost_of(engine, find(filter_, before)) for before in (None, events // 50))
        assert deep <= first * 1.5 + 20, filter_


def test_readers_and_verbs_go_by_index_and_a_page_costs_no_more_than_its_rows_however_deep(
    outbox_postgres_url: str,
) -> None:
    engine = create_engine(outbox_postgres_url)
    fill(engine, EVENTS)
    assert_read_by_index(engine, EVENTS)
    engine.dispose()
