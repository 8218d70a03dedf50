"""With a million events, what an operator reads and what a worker claims costs what it does with few."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine

from sqlalchemy_outbox.model import Outbox
from tests.outbox.conftest import METADATA, OUTBOX
from tests.outbox.plans import execute
from tests.outbox.test_claim_plans import LOOKS, buffers_to_find, load, plan_of
from tests.outbox.test_reader_plans import assert_read_by_index, fill

MANY = 1_000_000
KEPT = int(os.environ.get("KEPT_EVENTS", MANY))


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


def claim_buffers(engine: Engine, outbox: Outbox, *, kept: int, backlog: int) -> int:
    execute(engine, "TRUNCATE outbox_events RESTART IDENTITY")
    load(engine, kept, 100, are_delivered=True)
    load(engine, backlog, 100)
    execute(engine, "VACUUM ANALYZE outbox_events")
    return buffers_to_find(plan_of(engine, outbox, LOOKS[0]))


def test_readers_and_verbs_go_by_index_with_a_million_events(engine: Engine) -> None:
    fill(engine, MANY)
    assert_read_by_index(engine, MANY)


def test_claim_reads_as_much_beside_millions_of_kept_events_as_beside_a_thousand(engine: Engine) -> None:
    few, many = (claim_buffers(engine, OUTBOX, kept=kept, backlog=1_000) for kept in (1_000, KEPT))
    assert many <= few * 1.1


def test_claim_reads_as_much_from_a_million_waiting_events_as_from_a_thousand(engine: Engine) -> None:
    few, many = (claim_buffers(engine, OUTBOX, kept=0, backlog=backlog) for backlog in (1_000, MANY))
    # Found by 307 and 359: an index that has grown by a level costs each of the 50 heads' looks one buffer more.
    assert many <= few * 1.1 + 50
