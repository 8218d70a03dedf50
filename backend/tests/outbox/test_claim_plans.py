"""What a claim costs PostgreSQL, in buffers rather than in time: the same however many events there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, text

from sqlalchemy_outbox.claiming import claims
from sqlalchemy_outbox.claiming.candidates import WindowKind
from sqlalchemy_outbox.claiming.claims import Window
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import Outbox
from sqlalchemy_outbox.outcome import Delivered
from tests.outbox.plans import Plan, Sent, buffers, execute, explain, nodes, sent_by
from tests.outbox.queue import TYPES, Queue

LOOKS = [
    Window(WindowKind.AHEAD, size=100),
    Window(WindowKind.FOLLOWERS, subjects={"driver-1": 0, "driver-2": 0}, size=100),
]
# Each look reads its window by one index, and judges what it found by id and by subject.
INDEXES = {
    WindowKind.AHEAD: "ix_outbox_events_open",
    WindowKind.FOLLOWERS: "ix_outbox_events_open_subject",
}
JUDGED_BY = {
    "ix_outbox_events_open",
    "outbox_events_pkey",
    "ix_outbox_events_open_subject",
    "ix_outbox_events_below_floor",
    # Of it the last id is read.
    "outbox_events_erasures_pkey",
}


@pytest.fixture
def engine(outbox_postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(outbox_postgres_url)
    yield engine
    engine.dispose()


def load(engine: Engine, events: int, subjects: int, *, are_delivered: bool = False) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO outbox_events (event_id, event_type, subject, payload, created_at, available_at, "
                "processed_at) SELECT gen_random_uuid(), :type, 'driver-' || n % :subjects, '{}', now(), now(), "
                f"{'now()' if are_delivered else 'NULL'} FROM generate_series(1, :events) AS numbers(n)"
            ),
            {"events": events, "subjects": subjects, "type": TYPES[0]},
        )


def plan_of(engine: Engine, outbox: Outbox, window: Window) -> Plan:
    """How the look's claim runs, the first there is on this table; it claims nothing in the end."""
    return explain(engine, statement_of(engine, outbox, window))


def statement_of(engine: Engine, outbox: Outbox, window: Window) -> Sent:
    """What the claim sends, seen where no event is: a claim that is rolled back leaves dead rows for the next one."""

    def claim_nothing() -> None:
        with engine.connect() as connection:
            connection.execute(text("CREATE TEMPORARY TABLE outbox_events (LIKE public.outbox_events)"))
            claims.claim(connection, outbox, window, types=TYPES, token="t", lease=LEASE, limit=50, budget=LEASE)
            connection.rollback()

    return sent_by(engine, claim_nothing)[1]


def buffers_to_find(plan: Plan) -> int:
    """The batch, before anything is written: what indexes cost to keep is another matter."""
    (batch,) = (it for it in nodes(plan) if it.get("Subplan Name") == "CTE batch")
    return buffers(batch)


@pytest.mark.parametrize("window", LOOKS, ids=lambda window: str(window.kind))
def test_no_look_compares_each_event_with_each_head(engine: Engine, outbox: Outbox, window: Window) -> None:
    """Statistics from when nothing was open let PostgreSQL expect a row of each."""
    load(engine, 3_000, 3_000, are_delivered=True)
    execute(engine, "VACUUM ANALYZE outbox_events")
    load(engine, 3_000, 3_000)
    plan = plan_of(engine, outbox, window)
    assert max(it.get("Rows Removed by Join Filter", 0) for it in nodes(plan)) < 1000


@pytest.mark.parametrize("window", LOOKS, ids=lambda window: str(window.kind))
def test_each_look_uses_its_index_though_statistics_say_that_nothing_is_open(
    engine: Engine, outbox: Outbox, window: Window
) -> None:
    load(engine, 3_000, 50, are_delivered=True)
    execute(engine, "VACUUM ANALYZE outbox_events")
    load(engine, 3_000, 50)
    plan = plan_of(engine, outbox, window)
    # The leases are a few rows.
    assert {it["Relation Name"] for it in nodes(plan) if it["Node Type"] == "Seq Scan"} <= {"outbox_events_leases"}
    used = {it["Index Name"] for it in nodes(plan) if "Index Name" in it and it["Actual Loops"]}
    assert INDEXES[window.kind] in used
    assert used <= JUDGED_BY | {INDEXES[window.kind]}


def test_settle_goes_by_the_ids_in_a_table_so_small_that_to_read_all_of_it_seems_as_good(
    engine: Engine, outbox: Outbox
) -> None:
    """A connection keeps the plan that it made then, while the table grows."""
    load(engine, 5_000, 100, are_delivered=True)
    load(engine, 50, 50)
    execute(engine, "VACUUM ANALYZE outbox_events")
    queue = Queue(engine, outbox)
    token, events = queue.claim()
    (sent,) = (it for it in sent_by(engine, lambda: queue.settle(token, events, Delivered())) if "UPDATE" in it[0])
    plan = explain(engine, sent)
    scanned = {it["Relation Name"] for it in nodes(plan) if it["Node Type"] == "Seq Scan"}
    assert scanned <= {"outbox_events_leases"}
    assert len(events) == 50


def test_claim_reads_no_more_from_a_long_backlog_than_from_a_short_one(engine: Engine, outbox: Outbox) -> None:
    needed = []
    for events in (5_000, 50_000):
        execute(engine, "TRUNCATE outbox_events RESTART IDENTITY")
        load(engine, events, 100)
        execute(engine, "VACUUM ANALYZE outbox_events")
        needed.append(buffers_to_find(plan_of(engine, outbox, LOOKS[0])))
    short, long = needed
    # An index that has grown by a level costs each of the 50 heads' looks one buffer more.
    assert long <= short * 1.1 + 50


def test_claim_reads_no_more_while_dead_rows_cannot_be_cleared(engine: Engine, outbox: Outbox) -> None:
    needed = []
    for delivered in (100, 20_000):
        execute(engine, "TRUNCATE outbox_events RESTART IDENTITY")
        with engine.connect() as holder, holder.begin():
            holder.execute(text("SELECT pg_current_xact_id()"))
            load(engine, delivered, 100)
            execute(engine, "UPDATE outbox_events SET processed_at = now()")
            load(engine, 5_000, 100)
            window = Window(WindowKind.AHEAD, after=delivered, first_open_id=delivered + 1, size=100)
            needed.append(buffers_to_find(plan_of(engine, outbox, window)))
    few, many = needed
    assert many <= few * 1.1 + 50


def is_before(engine: Engine, version: int) -> bool:
    with engine.connect() as connection:
        return (connection.dialect.server_version_info or ()) < (version,)


@pytest.mark.parametrize(("claims_before", "expensive"), [(20, claims.EXPENSIVE), (0, 1)])
def test_claims_keep_their_plan_whatever_statistics_say(
    engine: Engine, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, claims_before: int, expensive: int
) -> None:
    """To plan a claim takes a quarter of its time. Here dead rows make it look dearer, and little lie ahead."""
    if is_before(engine, 14):
        pytest.skip("PostgreSQL 13 counts no plans")
    monkeypatch.setattr(claims, "EXPENSIVE", expensive)
    window = Window(WindowKind.AHEAD, after=20_500, first_open_id=20_001, size=100)

    def claim(times: int) -> None:
        for _ in range(times):
            claims.claim(worker, outbox, window, types=TYPES, token="t", lease=LEASE, limit=50, budget=LEASE)

    with (
        engine.connect() as holder,
        holder.begin(),
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as worker,
    ):
        holder.execute(text("SELECT pg_current_xact_id()"))
        claim(claims_before)
        load(engine, 20_000, 100)
        execute(engine, "UPDATE outbox_events SET processed_at = now()")
        load(engine, 500, 100)
        execute(engine, "ANALYZE outbox_events")
        claim(50)
        query = "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE :claim"
        planned, kept = worker.execute(text(query), {"claim": "%claim_token=%"}).one()
    # The driver prepares what it has sent five times, and of that PostgreSQL plans five before it keeps a plan.
    assert planned + kept == claims_before + 45
    assert planned <= 10
