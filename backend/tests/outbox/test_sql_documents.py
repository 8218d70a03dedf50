"""The statements that workers run can be read as SQL: docs/sql holds what they send, formatted.

`WRITE_SQL=1` writes the statements anew below the words that stand in each file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from random import Random

import pytest
import sqlglot
from psycopg import _queries
from sqlalchemy import MetaData, create_engine
from sqlalchemy.schema import CreateSchema

from instruments.statements import Run, intercept
from sqlalchemy_outbox.claiming import claims, retries
from sqlalchemy_outbox.claiming.candidates import WindowKind
from sqlalchemy_outbox.claiming.claims import Window
from sqlalchemy_outbox.claiming.watermark import Watermark
from sqlalchemy_outbox.gate import row as gate_row
from sqlalchemy_outbox.housekeeping.purge import Purge
from sqlalchemy_outbox.lease import LEASE
from sqlalchemy_outbox.model import NAME_CHARS_MAX, define_outbox
from sqlalchemy_outbox.outcome import Delivered
from sqlalchemy_outbox.settling import leases, settlement
from sqlalchemy_outbox.testing import RecordingDestination, drain
from tests.conftest import BACKEND
from tests.outbox.conftest import OUTBOX
from tests.outbox.plans import sent_by
from tests.outbox.queue import TYPES, Queue

FOLDER = BACKEND.parent / "docs" / "sql"
WIDTH = 110
OLD = timedelta(hours=1)


def claim_ahead(queue: Queue) -> None:
    claim(queue, Window(WindowKind.AHEAD, size=100))


def claim_followers(queue: Queue) -> None:
    claim(queue, Window(WindowKind.FOLLOWERS, subjects={"driver-1": 0}, size=100))


def claim(queue: Queue, window: Window) -> None:
    with queue.engine.begin() as connection:
        claims.claim(connection, OUTBOX, window, types=TYPES, token="t", lease=LEASE, limit=50, budget=LEASE)


def read_watermark(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        Watermark(OUTBOX).refresh(connection)


def read_due_retries(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        retries.due_retries(connection, OUTBOX, TYPES, 100)


def renew_leases(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        leases.renew(connection, OUTBOX, ["t"], LEASE)


def settle(queue: Queue) -> None:
    events = [queue.event(1)]
    rows = settlement.settle(events, {1: Delivered()}, Random())
    with queue.engine.begin() as connection:
        leases.settle(connection, OUTBOX, "t", rows)


def take_expired_leases(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        leases.take_expired(connection, OUTBOX, limit=100, since=OLD)


def take_slot(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        gate_row.take_slot(connection, OUTBOX, 0.125)


def purge(queue: Queue) -> None:
    with queue.engine.begin() as connection:
        Purge(OUTBOX, OLD).step(connection)


STATEMENTS: list[Callable[[Queue], None]] = [
    claim_ahead,
    claim_followers,
    read_watermark,
    read_due_retries,
    renew_leases,
    settle,
    take_expired_leases,
    take_slot,
    purge,
]


def formatted(sql: str) -> str:
    return sqlglot.transpile(sql, read="postgres", write="postgres", pretty=True, max_text_width=WIDTH)[0] + ";\n"


def words_and_statements(document: str) -> tuple[str, str]:
    """What a person wrote, and what was written by this test."""
    lines = document.splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if not line.startswith("--"))
    return "".join(lines[:first]), "".join(lines[first:]).lstrip("\n")


def test_documents_hold_what_is_sent(outbox_postgres_url: str) -> None:
    engine = create_engine(outbox_postgres_url)
    queue = Queue(engine, OUTBOX)
    queue.put("driver-1")
    with engine.begin() as connection:
        gate_row.make_row(connection, OUTBOX)
    differing = []
    for call in STATEMENTS:
        path = FOLDER / f"{call.__name__}.sql"
        sent = [formatted(sql) for sql, _ in sent_by(engine, partial(call, queue))]
        statements = "\n".join(dict.fromkeys(sent))
        words, written = words_and_statements(path.read_text() if path.exists() else "-- To be written.\n\n")
        if written != statements:
            differing.append(path.name)
            if "WRITE_SQL" in os.environ:
                path.write_text(f"{words}\n{statements}")
    engine.dispose()
    assert not differing, "WRITE_SQL=1 writes them anew"


def test_each_document_is_checked_and_says_why_the_statement_is_so() -> None:
    documents = {path.stem: path.read_text() for path in FOLDER.glob("*.sql")}
    assert documents.keys() == {call.__name__ for call in STATEMENTS}
    for name, document in documents.items():
        words, _ = words_and_statements(document)
        assert {"-- Reads:", "-- Why so:"} <= {f"{line.split(':')[0]}:" for line in words.splitlines()}, name


def test_no_statement_that_psycopg_converts_is_too_long_for_it_to_remember(postgres_url: str) -> None:
    """psycopg 3.3 converts one of more than 4,096 characters anew each time; a claim goes as it is, so has no bound."""
    long_named = define_outbox(metadata := MetaData(schema="a_schema_whose_name_is_long"), "o" * NAME_CHARS_MAX)
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(CreateSchema("a_schema_whose_name_is_long"))
        metadata.create_all(connection)
    Queue(engine, long_named).put("driver-1")
    lengths: dict[str, int] = {}

    def note(sql: str, parameters: object, run: Run) -> None:
        if not isinstance(parameters, list):
            lengths[sql] = len(sql)
        run()

    with intercept(engine, note):
        asyncio.run(drain(engine, long_named, RecordingDestination()))
    engine.dispose()
    assert max(lengths.values()) <= _queries.MAX_CACHED_STATEMENT_LENGTH


def test_name_that_leaves_no_room_for_the_names_of_indexes_is_refused() -> None:
    with pytest.raises(ValueError, match="30 characters at most"):
        define_outbox(MetaData(), "o" * (NAME_CHARS_MAX + 1))
