"""The floor that the outbox is measured against must be worth the comparison: it keeps each subject's order."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from bench import raw
from bench.ground import sqlite_engine
from bench.table import METADATA, count_open, load

_EVENTS = 600
_SUBJECTS = 7


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """On a database that holds the events."""
    engine = create_engine(postgres_url)
    METADATA.create_all(engine)
    load(engine, _EVENTS, _SUBJECTS)
    yield engine
    engine.dispose()


def test_workers_of_the_floor_share_no_subject_and_keep_its_order(engine: Engine, postgres_url: str) -> None:
    """Each notes a subject's events between its claim and its settlement, when nobody else may have that subject."""
    held: set[str] = set()
    done: defaultdict[str, list[int]] = defaultdict(list)
    lock = threading.Lock()
    clashes: list[str] = []

    def work() -> None:
        with raw.connect(postgres_url) as connection, connection.cursor(binary=True) as cursor:
            while count_open(engine):
                events, token = raw.claim(cursor, 20)
                ids = [event.id for event in events]
                mine = {event.subject for event in events}
                with lock:
                    clashes.extend(mine & held)
                    held.update(mine)
                    for event in sorted(events):
                        done[event.subject].append(event.id)
                with lock:
                    held.difference_update(mine)
                raw.settle(cursor, ids, token)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not clashes
    assert sum(map(len, done.values())) == _EVENTS
    assert all(ids == sorted(ids) for ids in done.values())


@pytest.mark.parametrize("workers", [1, 3])
def test_floor_leaves_nothing_behind(engine: Engine, postgres_url: str, workers: int) -> None:
    assert raw.drain(postgres_url, 50, workers) == _EVENTS
    assert count_open(engine) == 0


def test_floor_does_not_end_while_another_has_its_events_locked(engine: Engine, postgres_url: str) -> None:
    """A worker that takes nothing of a subject has its rows locked all the same while it looks."""
    with ThreadPoolExecutor() as pool, engine.begin() as other:
        other.execute(text("SELECT FROM outbox_events FOR UPDATE"))
        drained = pool.submit(raw.drain, postgres_url, 50, 1)
        with pytest.raises(TimeoutError):
            drained.result(0.5)
        other.rollback()
        assert drained.result(60) == _EVENTS


def test_floor_on_sqlite_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "floor.db")
    load(engine, _EVENTS, _SUBJECTS)
    assert raw.drain_sqlite(tmp_path / "floor.db", 50) == _EVENTS
    assert count_open(engine) == 0
    engine.dispose()
